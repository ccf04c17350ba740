// Starts the page: sets up its event listeners and connects.

function byHand(event) {
  event.preventDefault();
  tell("");
  run(true);
}

state.kept = { ...stored("sessionStorage", "texts", {}) };
tablist("tabs", Object.entries(TASKS).map(([task, { title }]) => [task, title, "panel"]), (task) => { tell(""); choose(task); });
tablist("languages", Object.entries(LANGUAGES).map(([language, [name]]) => [language, name, "code"]), chooseLanguage);
selectTab("languages", state.language);
$("form").addEventListener("submit", byHand);
$("form").addEventListener("input", (event) => { if (event.target.dataset.name) changed(); });
$("form").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byHand(event); });
$("head").addEventListener("change", () => { drawHead(); changed(); run(); });
$("key").addEventListener("input", drawCode);
$("key").addEventListener("change", () => { if (!state.heads.length) connect(); });
$("copy-link").addEventListener("click", copyLink);
$("copy").addEventListener("click", () => copy($("copy"), $("code").textContent, () => selectText($("code"))));
addEventListener("hashchange", () => (state.heads.length ? openLink() : drawLinked()));
addEventListener("storage", drawCorrections); // changed by another tab
$("compare-now").addEventListener("click", compare);
listenToMany();
drawCorrections();
drawLinked();
connect();
