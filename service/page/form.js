// The form: tabs, heads, texts, parameters. Its values are kept per task, in the browser tab and in the link.

const state = { task: "classify", heads: [], kept: {}, turn: 0, comparison: 0, last: null, cut: false, language: "curl" };

const answersOn = (head, task) => head.routes.includes(`/${task}/${head.name}`);
const headsOf = (task) => state.heads.filter((head) => answersOn(head, task));
const isDefault = (head) => head === headsOf(state.task)[0];
const currentHead = () => headsOf(state.task).find((head) => head.name === $("head").value);
const route = (head = currentHead()) => state.task + (head && !isDefault(head) ? "/" + encodeURIComponent(head.name) : "");
const textFields = (task) => TASKS[task].fields.filter(([, , kind]) => kind !== "list");

function drawTabs() {
  for (const tab of $("tabs").children) {
    const task = tab.id.slice(4);
    tab.disabled = state.heads.length > 0 && !headsOf(task).length;
    tab.title = tab.disabled ? "No head for this task is served" : "POST /" + task;
  }
  selectTab("tabs", state.task);
}

function choose(task, name) {
  drawForm(task, name);
  changed();
  if (state.heads.length) run();
}

function drawForm(task, name) {
  state.task = task;
  drawTabs();
  $("task-about").textContent = TASKS[task].about;
  $("many").hidden = Boolean(TASKS[task].compose);
  $("inputs").replaceChildren(...TASKS[task].fields.map(textField));
  $("examples").replaceChildren(...TASKS[task].examples.map(exampleButton));
  drawExample(state.kept[task] ? [] : TASKS[task].examples[0]);
  drawHeads(name);
}

function drawHeads(name) {
  const heads = headsOf(state.task);
  $("head").replaceChildren(...heads.map((head) => make("option", { value: head.name, textContent: head.name + (isDefault(head) ? " (default)" : "") })));
  if (!heads.length) $("head").append(make("option", { value: "", textContent: "not known yet" }));
  if (heads.some((head) => head.name === name)) $("head").value = name;
  drawHead();
  drawColumns();
}

function textField([name, label, kind]) {
  const options = { id: "in-" + name, "data-name": name, value: String(state.kept[state.task]?.[name] ?? "") };
  const isLine = ["line", "list"].includes(kind);
  const control = isLine ? make("input", { ...options, type: "text" }) : make("textarea", { ...options, class: kind, spellcheck: false });
  if (kind === "list") control.dataset.kind = kind;
  return labeled(label, control, "field");
}

function labeled(text, control, kind = "") {
  return make("div", { class: kind }, make("label", { htmlFor: control.id, textContent: text }), control, make("p", { class: "fault", id: control.id + "-fault" }));
}

function exampleButton(texts) {
  const short = texts[0].length > 44 ? texts[0].slice(0, 43) + "…" : texts[0];
  return button(short, () => { drawExample(texts); changed(); run(); }, { title: texts.join("\n") });
}

function drawExample(texts) {
  texts.forEach((text, index) => { $("in-" + TASKS[state.task].fields[index][0]).value = text; });
}

function drawHead() {
  const head = currentHead();
  $("about").textContent = head ? describe(head) : "";
  drawCard(head);
  drawRivals();
  const drawn = Object.entries(TASKS[state.task].parameters).map(([name, kind]) => parameterField(name, kind, head?.task === state.task ? head.parameters[name] : undefined));
  $("parameters").replaceChildren(...drawn);
  drawCode();
}

function describe(head) {
  const facts = [`${head.bundle.name} ${head.bundle.version}`, `${head.precision} on ${head.provider}`];
  const labels = head.task === "tag" ? kindsOf(head) : head.labels;
  if (labels.length) facts.push(labels.length > 8 ? `${labels.length} labels` : labels.join(", "));
  const figures = head.metrics;
  const shown = Object.entries(figures).filter(([name, value]) => typeof value === "number" && !Number.isInteger(value) && !name.endsWith("_chance"));
  for (const [name, value] of shown.slice(0, 2)) {
    const chance = figures[name + "_chance"];
    facts.push(`${name.replaceAll("_", " ")} ${+value.toFixed(3)}${chance === undefined ? "" : ` (by chance ${+chance.toFixed(3)})`}`);
  }
  return facts.join(" · ");
}

function parameterField(name, kind, preset) {
  const id = "p-" + name, choices = kind === "boolean" ? ["false", "true"] : kind;
  const shown = preset === null || preset === undefined ? "" : Array.isArray(preset) ? preset.join(", ") : String(preset);
  const given = state.kept[state.task]?.[name];
  const control = Array.isArray(choices)
    ? make("select", { id }, ...optionsOf([shown, ...choices, given ?? shown]))
    : make("input", { id, type: "text", inputMode: kind === "number" ? "decimal" : "text", placeholder: shown || "default", autocomplete: "off" });
  Object.assign(control.dataset, { kind: Array.isArray(kind) ? "choice" : kind, preset: shown, name });
  control.value = given ?? (Array.isArray(choices) ? shown : "");
  return labeled(name, control);
}

const optionsOf = (values) => [...new Set(values)].map((value) => make("option", { value, textContent: value || "default" }));

// ---- values ----

const controls = () => [...$("form").querySelectorAll("[data-name]")];
const isGiven = ({ value, dataset }) => !dataset.kind || (value.trim() !== "" && value !== dataset.preset);
const givenValues = () => Object.fromEntries(controls().filter(isGiven).map(({ value, dataset }) => [dataset.name, value]));
const isNumber = (text) => /^[+-]?\d+([.]\d+)?$/.test(text.trim());
const READ = {
  number: (text) => (isNumber(text) ? Number(text) : text),
  boolean: (text) => text === "true",
  choice: String,
  text: String,
  list: (text) => text.split(",").map((part) => part.trim()).filter(Boolean),
};

function body() {
  const given = controls().filter(isGiven);
  const texts = Object.fromEntries(given.filter(({ dataset }) => !dataset.kind).map(({ value, dataset }) => [dataset.name, value]));
  const parameters = Object.fromEntries(given.filter(({ dataset }) => dataset.kind).map(({ value, dataset }) => [dataset.name, READ[dataset.kind](value)]));
  const { compose } = TASKS[state.task], single = textFields(state.task).length === 1;
  if (compose) return compose(texts, parameters);
  const needsParameters = textFields(state.task).length < TASKS[state.task].fields.length;
  return { inputs: single ? texts.text : texts, ...(needsParameters || Object.keys(parameters).length ? { parameters } : {}) };
}

/** Store the values of the form, and update what depends on them. */
function changed() {
  state.kept[state.task] = givenValues();
  store("sessionStorage", "texts", state.kept);
  drawCode();
  writeLink();
}

// ---- faults ----

/** Return the faults of parameters that can be found without asking the service. */
function formFaults() {
  const wrong = controls().filter((control) => control.dataset.kind === "number" && isGiven(control) && !isNumber(control.value));
  return wrong.map(({ value, dataset }) => ({
    field: `parameters.${dataset.name}`, message: `"${value}" is not a number. Write one such as 3, or leave it empty.`,
  }));
}

/** Mark the controls that the errors name; return the first one. */
function markFaults(errors) {
  for (const control of controls()) {
    const mine = errors.filter((error) => fieldOf(error) === control.dataset.name);
    $(control.id + "-fault").textContent = mine.map((error) => error.message).join(" ");
    if (mine.length) control.setAttribute("aria-describedby", control.id + "-fault");
    else control.removeAttribute("aria-describedby");
    control.setAttribute("aria-invalid", String(mine.length > 0));
    if (mine.length && control.dataset.kind) $("more").open = true;
  }
  return $("form").querySelector("[aria-invalid=true]");
}

function fieldOf({ field }) {
  const name = field.replace(/^(parameters|inputs)[.]?/, "").split(/[.[]/)[0];
  return name || TASKS[state.task].fields[0][0];
}
