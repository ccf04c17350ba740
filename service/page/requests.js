// Requests, and remedies for those that fail. `ask` throws only if its signal aborts it.

const PAUSE = 1000; // milliseconds between checks whether the service answers again

const NO_ANSWER = {
  title: "The service does not answer",
  text: "Check that it runs and that this machine reaches it. The page keeps trying; once the status above says ready, press Run. Your text is kept.",
};

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
  watch();
  return {
    status: response.status,
    wait: waitOf(response),
    title: `${response.status}: this answer is not from the service`,
    text: "Something in between, such as a proxy, answered for it. The service may be starting: wait a few seconds and press Run again. If this continues, look at the log of the proxy. Your text is kept.",
  };
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
  if (status === 401) return "Enter a valid key in the field API key, then press Run.";
  if (status === 404) return "Reload the page to see what is served now. Your text is kept.";
  if (status === 429 || status === 503) return `Wait ${wait} s, then press Run again.`;
  if (status < 500) return "";
  return `Press Run again. If this continues, report the request ${response.headers.get("X-Request-Id")}.`;
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

async function connect() {
  const { problem } = await ask("health/ready");
  if (!problem) return loadHeads();
  if (problem.status !== 503 || state.watching) return watch();
  watch();
  setStatus(problem.text.split("\n")[0]);
}

async function loadHeads() {
  const { answer, problem } = await ask("heads");
  if (problem) return noHeads(problem);
  const again = state.heads.length > 0;
  state.heads = answer.heads;
  setStatus(`ready, ${state.heads.length} head${state.heads.length === 1 ? "" : "s"}`, "ready");
  drawTabs();
  if (!again || !currentHead()) openLink();
  else tell("The service answers again", "Press Run.");
}

function noHeads(problem) {
  if (problem.status !== 401) return watch();
  setStatus("needs an API key");
  showProblem(problem);
}
