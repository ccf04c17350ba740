// Elements of the page. All data from the server or the user is inserted as text, never as markup.

const $ = (id) => document.getElementById(id);

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") element.className = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const button = (text, click, options = {}) => make("button", { type: "button", class: "plain", textContent: text, on: { click }, ...options });
const notice = (kind, title, ...texts) => make("div", { class: "notice " + kind }, make("strong", { textContent: title }), ...texts);
const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
const milliseconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(0)) + " ms";

function percent(share) {
  if (typeof share !== "number") throw new TypeError("an answer has no score");
  return (100 * share).toFixed(share > 0.9995 || share < 0.0095 ? 2 : 1) + " %";
}

// Elements that scroll must be reachable by keyboard.
const scrolling = (tag, name, options) => make(tag, { ...options, tabIndex: 0, role: "region", "aria-label": name });

/** Announce a sentence to screen readers; sighted users see the same in another form. */
function say(sentence) { $("said").textContent = sentence; }

/** Show a message about the page itself, until the next message or action; an empty title clears it. */
function tell(title, ...texts) {
  const close = button("Close", () => tell(""), { class: "plain last" });
  $("message").replaceChildren(...(title ? [notice("warn", title, make("span", {}, texts.join(" ")), close)] : []));
}

function table(headings, rows) {
  const cell = (tag, options) => ([text, kind]) => make(tag, { ...options, class: kind || "", textContent: text });
  const line = (cells, tag, options) => make("tr", {}, ...cells.map((each) => cell(tag, options)([each].flat())));
  return make("table", {}, make("thead", {}, line(headings, "th", { scope: "col" })), make("tbody", {}, ...rows.map((cells) => line(cells, "td", {}))));
}

// ---- tabs ----

function tablist(id, items, choose) {
  $(id).replaceChildren(...items.map(([key, text, panel]) => make("button", {
    type: "button", role: "tab", id: "tab-" + key, textContent: text, "aria-controls": panel, on: { click: () => choose(key) },
  })));
  $(id).addEventListener("keydown", moveTab);
}

function selectTab(id, key) {
  for (const tab of $(id).children) {
    const selected = tab.id === "tab-" + key;
    tab.setAttribute("aria-selected", String(selected));
    tab.tabIndex = selected ? 0 : -1;
    if (selected) $(tab.getAttribute("aria-controls")).setAttribute("aria-labelledby", tab.id);
  }
}

function moveTab(event) {
  const tabs = [...event.currentTarget.children].filter((tab) => !tab.disabled);
  const here = tabs.indexOf(document.activeElement), last = tabs.length - 1;
  const to = { ArrowRight: here < last ? here + 1 : 0, ArrowLeft: here > 0 ? here - 1 : last, Home: 0, End: last }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  tabs[to].focus();
  tabs[to].click();
}

// ---- copies and files ----

/** Copy a text; if the browser does not allow it, `otherwise` prepares another way and returns instructions. */
async function copy(pressed, text, otherwise) {
  try {
    await navigator.clipboard.writeText(text); // missing on pages loaded over plain http
    const before = pressed.dataset.text ??= pressed.textContent;
    pressed.textContent = "Copied";
    say("Copied");
    setTimeout(() => { pressed.textContent = before; }, 1500);
  } catch {
    tell("The browser does not let this page copy", otherwise());
  }
}

function selectText(element) {
  getSelection().selectAllChildren(element);
  element.focus();
  return "The text is selected instead. Press Ctrl + C (on a Mac, Cmd + C).";
}

function download(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  const link = make("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
