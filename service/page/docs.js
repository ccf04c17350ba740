// The API documentation, drawn from /openapi.json: one screen per route. Paths with and without a head share a screen.

const docs = { document: null, screens: [], turn: 0, bodies: {} }; // bodies: what the user wrote, by screen
const NARROW = matchMedia("(max-width: 860px)");

const operations = () => Object.entries(docs.document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
const anchor = ({ method, path }) => `#${method}${path}`;
const shortPath = ({ method, path }) => (method === "post" ? path.replace(/[/]{head}$/, "") : path).replace("/versions/{version}", "");

async function startDocs() {
  try {
    docs.document = await (await fetch("openapi.json")).json();
    docs.screens = grouped(operations());
  } catch {
    tell("The service does not answer", "Check that it runs, then reload this page.");
    return $("screen").replaceChildren();
  }
  $("routes").open = !NARROW.matches;
  drawList();
  openRoute();
  addEventListener("hashchange", showRoute);
}

/** Draw another route; the focus goes to its title, or stays on the choice of the path. */
function showRoute() {
  const id = document.activeElement.id === "variant" ? "variant" : "title";
  openRoute();
  ($(id) ?? $("title")).focus();
}

const screenOf = (each) => each.method + shortPath(each);
const grouped = (all) => Object.values(Object.groupBy(all, screenOf));

function drawList() {
  const groups = [...new Set(docs.screens.map(([{ operation }]) => operation.tags[0]))];
  $("list").replaceChildren(...groups.flatMap((group) => [
    make("h3", { textContent: group }),
    make("ul", {}, ...docs.screens.filter(([{ operation }]) => operation.tags[0] === group).map(listItem)),
  ]));
}

function listItem([first]) {
  const link = make("a", { href: anchor(first), title: first.operation.summary }, method(first.method), " ", breakable(shortPath(first)));
  return make("li", {}, link);
}

/** Return a path that may wrap before each slash. */
const breakable = (path) => make("code", {}, ...path.split(/(?=[/])/).flatMap((part) => [make("wbr"), part]));

const method = (name) => make("span", { class: `method ${name}`, textContent: name.toUpperCase() });

/** Draw the route in the address, or the first one. */
function openRoute() {
  const wanted = decoded(location.hash), all = docs.screens.flat();
  const chosen = all.find((each) => anchor(each) === wanted) ?? docs.screens[0][0];
  tell(wanted && anchor(chosen) !== wanted ? `There is no route ${wanted.slice(1)}` : "", "This is the first one instead. The list has all routes.");
  const screen = docs.screens.find((each) => each.includes(chosen));
  for (const link of $("list").querySelectorAll("a")) {
    if (link.getAttribute("href") === anchor(screen[0])) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (NARROW.matches) $("routes").open = false;
  docs.turn++; // so that a late answer for another screen is ignored
  document.title = `${chosen.method.toUpperCase()} ${chosen.path} · bertheads API`;
  $("screen").replaceChildren(...drawScreen(screen, chosen));
  drawRequest(chosen);
  scrollTo(0, 0);
}

function decoded(hash) {
  try {
    return decodeURIComponent(hash);
  } catch {
    return hash;
  }
}

function drawScreen(screen, chosen) {
  const { operation, path } = chosen;
  const task = path.split("/")[1], onPage = Object.hasOwn(TASKS, task) && chosen.method === "post";
  return [
    make("section", { class: "card", "aria-labelledby": "title" },
      make("h2", { id: "title", class: "route", tabIndex: -1 }, method(chosen.method), " ", breakable(path)),
      make("p", { textContent: `${operation.summary}.`.replace(/[?][.]$/, "?") }),
      ...(operation.description ? [make("p", { textContent: operation.description.replaceAll("`", "") })] : []),
      ...(onPage ? [make("p", {}, make("a", { href: "./#" + task, textContent: "Try it on the playground" }))] : [])),
    make("section", { class: "card", "aria-label": "Request" }, ...drawTry(screen, chosen)),
    make("section", { class: "card", "aria-label": "Answers" }, ...drawAnswersOf(chosen)),
    ...drawFields("Parameters", operation.parameters.map(parameterLine)),
    ...bodiesOf(operation).flatMap((schema, index) => drawFields(index ? "Or this body" : "Body", fieldLines(schema))),
    ...drawFields("Answer", fieldLines(contentOf(operation.responses["200"])[1]?.schema ?? {})),
  ];
}

const contentOf = (response) => Object.entries(response.content ?? {})[0] ?? ["", undefined];
const bodyOf = (operation) => operation.requestBody?.content["application/json"];
const bodiesOf = (operation) => {
  const schema = bodyOf(operation)?.schema;
  return schema ? (schema.anyOf ?? [schema]).map(resolved) : [];
};

// ---- try it ----

function drawTry(screen, chosen) {
  const { operation } = chosen, example = bodyOf(operation)?.example;
  const paths = screen.map((each) => make("option", { value: anchor(each), textContent: each.path }));
  const named = operation.parameters.filter((each) => each.in === "path");
  return [
    make("h3", { textContent: "Request" }),
    ...(screen.length > 1 ? [labeled("Path", make("select", { id: "variant", on: { change: () => { location.hash = $("variant").value; } } }, ...paths), "field")] : []),
    ...named.map((each) => labeled(each.name, nameControl(each), "field")),
    ...(example === undefined ? [] : [labeled("Body", make("textarea", { id: "body", spellcheck: false, class: "mono tall", value: docs.bodies[screenOf(chosen)] ?? JSON.stringify(example, null, 2) }), "field")]),
    ...(docs.document.components.securitySchemes ? [labeled("API key, not stored", make("input", { id: "key", type: "password", autocomplete: "off" }), "field")] : []),
    scrolling("pre", "Request for a shell", { id: "code" }),
    make("div", { class: "row space" },
      make("button", { type: "button", class: "primary", textContent: "Send", on: { click: () => send(chosen) } }),
      button("Copy curl", (event) => copy(event.target, $("code").textContent, () => selectText($("code"))))),
    make("div", { id: "sent", role: "status" }),
  ];
}

function nameControl({ name, schema, example }) {
  const options = { id: "name-" + name };
  if (!schema.enum) return make("input", { ...options, type: "text", value: example ?? "" });
  return make("select", options, ...schema.enum.map((value) => make("option", { value, textContent: value })));
}

const labeled = (text, control, kind) => make("div", { class: kind }, make("label", { htmlFor: control.id, textContent: text }), control);

/** Return the address, the headers and the body of the request that the form describes. */
function requestOf({ path, operation }) {
  const text = $("body")?.value;
  const whole = path.replace(/{(\w+)}/g, (_, name) => encodeURIComponent($("name-" + name).value));
  return { path: whole, headers: text === undefined ? {} : { "Content-Type": "application/json" }, body: text };
}

/** Return a request as a shell command; the key itself never appears. */
function shell(chosen, { path, headers, body }) {
  const address = new URL(path.slice(1), pageAddress().replace(/docs$/, ""));
  const key = docs.document.components.securitySchemes && !("Authorization" in headers) ? [`-H 'Authorization: Bearer '"$KEY"`] : [];
  const lines = Object.entries(headers).filter(([, value]) => value).map(([name, value]) => `-H ${quoted(`${name}: ${value}`)}`);
  return [`curl ${quoted(String(address))}`, ...lines, ...key, ...(body === undefined ? [] : [`-d ${quoted(short(body))}`])].join(" \\\n  ");
}

/** Return JSON in one line, and any other text unchanged. */
function short(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1).replace(/\n\s*/g, " ");
  } catch {
    return text;
  }
}

function drawRequest(chosen) {
  const draw = () => { $("code").textContent = shell(chosen, requestOf(chosen)); };
  if ($("variant")) $("variant").value = anchor(chosen);
  $("screen").querySelectorAll("#body, [id^=name-]").forEach((control) => control.addEventListener("input", draw));
  $("body")?.addEventListener("input", () => { docs.bodies[screenOf(chosen)] = $("body").value; });
  draw();
}

async function send(chosen) {
  const { path, headers, body } = requestOf(chosen), turn = ++docs.turn;
  $("sent").replaceChildren(make("p", { class: "empty", textContent: "Sent. Waiting for the answer …" }));
  try {
    const key = $("key") ? keyHeader() : {};
    const response = await fetch(path.slice(1), { method: chosen.method.toUpperCase(), headers: { ...headers, ...key }, body });
    const text = await response.text();
    if (turn === docs.turn) drawSent(response, text);
  } catch {
    if (turn === docs.turn) $("sent").replaceChildren(notice("bad", "The service does not answer", "Check that it runs, then press Send again."));
  }
}

function drawSent(response, text) {
  const shown = ["Content-Type", "X-Bundle", "Server-Timing", "X-Truncated", "Retry-After", "X-Request-Id"].filter((name) => response.headers.get(name));
  const lines = shown.map((name) => `${name}: ${response.headers.get(name)}`).join("\n");
  const kind = response.ok ? "good" : "bad";
  $("sent").replaceChildren(
    make("p", { class: "status " + kind, textContent: `${response.status} ${response.statusText}` }),
    make("p", { class: "about mono lines", textContent: lines }),
    scrolling("pre", "Answer of the service", { textContent: pretty(text) }));
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// ---- answers ----

function drawAnswersOf(chosen) {
  const responses = Object.entries(chosen.operation.responses);
  const tabs = make("div", { class: "tabs small", role: "tablist", "aria-label": "Status", id: "statuses" });
  const panel = make("div", { id: "answer", role: "tabpanel" });
  const choose = (status) => {
    selectTab("statuses", status);
    panel.replaceChildren(...drawAnswerOf(chosen, chosen.operation.responses[status]));
  };
  queueMicrotask(() => {
    tablist("statuses", responses.map(([status]) => [status, status, "answer"]), choose);
    choose("200");
  });
  return [make("h3", { textContent: "Answers" }), tabs, panel];
}

function drawAnswerOf(chosen, response) {
  const [media, content] = contentOf(response);
  const sent = response["x-request"], problem = content?.example?.title;
  const title = problem ? `${response.description.split("\n")[0]}` : "The answer.";
  return [
    make("p", { textContent: title }),
    ...(sent || !problem ? [] : [make("p", { class: "about", textContent: "It depends on the settings or on the load; no single request causes it." })]),
    ...(sent ? [make("p", { class: "about", textContent: "A request that causes it:" }), scrolling("pre", "Request that causes it", { textContent: shell(chosen, changed(chosen, sent)) })] : []),
    ...(content?.example === undefined ? [] : [make("p", { class: "about", textContent: media }), scrolling("pre", "Example of an answer", { textContent: JSON.stringify(content.example, null, 2) })]),
    ...Object.entries(response.headers ?? {}).map(([name, { description }]) => make("p", { class: "about" }, make("code", { textContent: name }), ` ${description}`)),
  ];
}

/** Return the request that causes an error: the route's example with the changes in `sent`. */
function changed({ path, operation }, sent) {
  const example = bodyOf(operation)?.example;
  const names = Object.fromEntries(operation.parameters.map((each) => [each.name, each.example]));
  const body = sent.body ?? (example === undefined ? undefined : JSON.stringify(example));
  const type = body === undefined ? {} : { "Content-Type": "application/json" };
  const whole = (sent.path ?? path).replace(/{(\w+)}/g, (_, name) => names[name] ?? name);
  return { path: whole, headers: { ...type, ...sent.headers }, body };
}

// ---- fields ----

const resolved = (schema) => (schema?.$ref ? docs.document.components.schemas[schema.$ref.split("/").at(-1)] : schema);
const optionsOf = (schema) => (schema.anyOf ?? schema.oneOf ?? [schema]).map(resolved).filter((each) => each.type !== "null");

const MAX_DEPTH = 4; // of nested objects

/** Return [name, type, description] of each field of an object, including nested objects. */
function fieldLines(schema, prefix = "", depth = 0) {
  return optionsOf(resolved(schema)).flatMap((each) => {
    if (each.type === "array" && depth < MAX_DEPTH) return fieldLines(each.items ?? {}, prefix, depth + 1);
    const required = each.required ?? [];
    return Object.entries(each.properties ?? {}).flatMap(([name, field]) => {
      const whole = prefix + name, inner = depth < MAX_DEPTH ? fieldLines(field, whole + ".", depth + 1) : [];
      return [[whole, [typeOf(field), ...bounds(field), required.includes(name) ? "required" : ""], field.description ?? ""], ...inner];
    });
  }).filter(([name], index, all) => all.findIndex(([other]) => other === name) === index);
}

function typeOf(schema) {
  return [...new Set(optionsOf(resolved(schema)).map(simpleType))].join(" or ");
}

function simpleType(schema) {
  if (schema.anyOf || schema.oneOf) return typeOf(schema);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(", ");
  if (schema.type === "array") return `list of ${typeOf(schema.items ?? {}) || "anything"}`;
  return { string: "text", integer: "whole number", boolean: "true or false", object: "object", number: "number" }[schema.type] ?? "anything";
}

const LIMITS = {
  minimum: (value) => `from ${value}`, maximum: (value) => `up to ${value}`, exclusiveMaximum: (value) => `below ${value}`,
  maxLength: (value) => `at most ${value} characters`, maxItems: (value) => `at most ${value} items`,
};

function bounds(schema) {
  const limits = Object.entries(LIMITS);
  const found = optionsOf(schema).flatMap((each) => limits.filter(([name]) => name in each).map(([name, written]) => written(each[name].toLocaleString("en"))));
  return [...new Set(found), ...("default" in schema && schema.default !== null ? [`default ${JSON.stringify(schema.default)}`] : [])];
}

const parameterLine = ({ name, in: place, schema, description, required }) =>
  [name, [`in the ${place}`, schema.enum ? "" : typeOf(schema), ...bounds(schema), required ? "required" : ""], description];

function drawFields(title, lines) {
  if (!lines.length) return [];
  const items = lines.map(([name, facts, description]) => make("div", {},
    make("dt", {}, make("code", { textContent: name }), " ", make("span", { textContent: facts.filter(Boolean).join(" · ") })),
    make("dd", { textContent: description.replaceAll("`", "").replaceAll("\n", " ") })));
  return [make("section", { class: "card", "aria-label": title }, make("h3", { textContent: title }), make("dl", { class: "fields" }, ...items))];
}

startDocs();
