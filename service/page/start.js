// The start: what the page listens to.

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "Light" : "Dark";
  $("theme").textContent = other;
  $("theme").setAttribute("aria-label", `${other} colours`);
}

function switchTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  store("localStorage", "theme", document.documentElement.dataset.theme);
}

function byHand(event) {
  event.preventDefault();
  tell("");
  run(true);
}

const chosenTheme = stored("localStorage", "theme", "");
setTheme(["dark", "light"].includes(chosenTheme) ? chosenTheme : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
state.kept = { ...stored("sessionStorage", "texts", {}) };
tablist("tabs", Object.entries(TASKS).map(([task, { title }]) => [task, title, "panel"]), (task) => { tell(""); choose(task); });
tablist("languages", Object.entries(LANGUAGES).map(([language, [name]]) => [language, name, "code"]), chooseLanguage);
selectTab("languages", state.language);
$("theme").addEventListener("click", switchTheme);
$("form").addEventListener("submit", byHand);
$("form").addEventListener("input", (event) => { if (event.target.dataset.name) changed(); });
$("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byHand(event); });
$("head").addEventListener("change", () => { chooseHead(); run(); });
$("key").addEventListener("input", drawCode);
$("key").addEventListener("change", () => { if (!state.heads.length) connect(); });
$("copy-link").addEventListener("click", copyLink);
$("copy").addEventListener("click", () => copy($("copy"), $("code").textContent, () => selectText($("code"))));
addEventListener("hashchange", () => { if (state.heads.length) openLink(); });
$("compare-now").addEventListener("click", compare);
listenToMany();
drawCorrections();
drawTabs();
connect();
