// Requests, and remedies for those that fail. `ask` throws only if its signal aborts it.

const PAUSE = 1000; // milliseconds between checks whether the service answers again

const NO_ANSWER = {
  title: "The service does not answer",
  text: "Check that it runs and that this machine reaches it. The page keeps trying; once the status above says ready, try again. Your text is kept.",
};
const NOT_READY = { title: "The service is not ready", text: "The page keeps trying, and runs this as soon as the service is ready. Your text is kept." };

/** Return { answer, headers }, or { problem } with what happened and what to do. */
async function ask(path, { body, headers = {}, signal } = {}) {
  let response, text;
  try {
    const given = { ...(body ? { "Content-Type": "application/json" } : {}), ...keyHeader(), ...headers };
    response = await fetch(path, { method: body ? "POST" : "GET", headers: given, body: body && JSON.stringify(body), signal });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    watch();
    return { problem: NO_ANSWER };
  }
  const answer = parsed(text);
  if (response.ok && answer !== undefined) return { answer, headers: response.headers };
  return { problem: answer?.title ? problemOf(response, answer) : foreign(response) };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Describe an answer that does not come from bertheads, such as the HTML page of a proxy. */
function foreign(response) {
  const { status } = response, wait = waitOf(response);
  if (response.ok || status >= 500) watch();
  const text = `Something in between, such as a proxy, answered for it. ${foreignRemedy(status, wait)} Your text is kept.`;
  return { status, wait, title: `${status}: this answer is not from the service`, text };
}

function foreignRemedy(status, wait) {
  if (status === 401 || status === 403) return "It does not let you through. Reload the page, and log in if it asks you to.";
  if (status === 413) return "The request is too large for it. Shorten the text, then try again.";
  if (status === 429) return `It limits requests. Wait ${wait} s, then try again.`;
  return "The service may be starting: wait a few seconds, then try again. If this continues, look at the log of the proxy.";
}

function problemOf(response, answer) {
  const errors = (answer.errors || []).filter((error) => error.field);
  const lines = errors.length ? errors.map((error) => `${error.field}: ${error.message}`) : [answer.detail || ""];
  const { status } = response, wait = waitOf(response);
  const title = status === 401 ? keyTitle() : `${status} ${answer.title}`;
  return { status, wait, title, text: [...lines, remedy(status, wait, response)].filter(Boolean).join("\n"), errors };
}

const keyTitle = () => ($("key").value ? "The API key is wrong" : "This service needs an API key");

const waitOf = (response) => Math.min(600, Math.max(1, Number(response.headers.get("Retry-After")) || 1)); // seconds

function remedy(status, wait, response) {
  if (status === 401) return "Enter a valid key in the field API key, then try again.";
  if (status === 404) return "Reload the page to see what is served now. Your text is kept.";
  if (status === 429 || status === 503) return `Wait ${wait} s, then try again.`;
  if (status < 500) return "";
  const id = response.headers.get("X-Request-Id");
  return `Try again. If this continues, ${id ? `report the request ${id}` : "look at the log of the service"}.`;
}

// ---- connection ----

function setStatus(text, kind = "") {
  if ($("status").textContent !== text) $("status").textContent = text;
  $("status").dataset.state = kind;
}

/** Check repeatedly until the service answers again. */
function watch() {
  setStatus("no connection, trying again", "bad");
  state.watching ??= setTimeout(() => { state.watching = undefined; connect(); }, PAUSE);
}

/** Connect, once at a time. */
function connect() {
  return state.connecting ??= checkService().finally(() => { state.connecting = undefined; });
}

async function checkService() {
  const { problem } = await ask("health/ready");
  if (!problem) return loadHeads();
  watch();
  if (problem.status === 503 && problem.errors) setStatus(problem.text.split("\n")[0]); // said by the service itself
}

async function loadHeads() {
  const { answer, problem } = await ask("heads");
  if (problem) return noHeads(problem);
  const again = state.heads.length > 0, isNew = JSON.stringify(answer.heads) !== JSON.stringify(state.heads);
  state.heads = answer.heads;
  setStatus(`ready, ${counted(state.heads.length, "head")}`, "ready");
  drawTabs();
  if (!again || !currentHead()) return openLink();
  if (isNew) drawHeads($("head").value);
  tell("The service answers again", isNew ? "It serves other heads or versions than before. Press Run." : "Press Run.");
}

function noHeads(problem) {
  if (problem.status !== 401) return watch();
  setStatus("needs an API key");
  showProblem(problem);
}
