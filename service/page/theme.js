// Light or dark theme: the user's choice, or the system's setting by default.

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  const other = theme === "dark" ? "Light" : "Dark";
  $("theme").textContent = other;
  $("theme").setAttribute("aria-label", `${other} colors`);
}

function switchTheme() {
  setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  store("localStorage", "theme", document.documentElement.dataset.theme);
}

const chosenTheme = stored("localStorage", "theme", "");
setTheme(["dark", "light"].includes(chosenTheme) ? chosenTheme : matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
$("theme").addEventListener("click", switchTheme);
