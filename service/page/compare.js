// Compare: sends the same input to another head, or to another version of the bundle.

function drawRivals() {
  const heads = headsOf(state.task);
  $("rival").replaceChildren(...heads.map((head) => make("option", { value: head.name, textContent: head.name })));
  const other = heads.find((head) => head !== currentHead());
  if (other) $("rival").value = other.name;
  state.comparison++;
  $("compared").replaceChildren();
}

async function compare() {
  if (!currentHead()) return runLater();
  const turn = ++state.comparison;
  $("compared").replaceChildren(make("p", { id: "verdict", textContent: "Waiting for both answers …" }));
  const rival = state.heads.find((head) => head.name === $("rival").value), version = $("version").value.trim();
  const sides = [{ head: currentHead() }, { head: rival, version }];
  const sent = body(), task = state.task;
  const found = await Promise.all(sides.map(({ head, version: pinned }) => ask(
    `${task}/${encodeURIComponent(head.name)}`, { body: sent, headers: pinned ? { "X-Bundle": pinned } : {} })));
  if (turn !== state.comparison) return;
  $("compared").replaceChildren(
    make("p", { id: "verdict", textContent: verdict(task, found, sent) }),
    make("div", { class: "columns" }, ...found.map((each, index) => side(task, sides[index].head, each, sent))));
  say(found.find((each) => each.problem)?.problem.text ?? $("verdict").textContent);
}

function side(task, head, { answer, headers, problem }, sent) {
  const drawing = problem ? [notice("bad", problem.title, problem.text)] : sideAnswer(task, head, answer, sent);
  return make("section", { "aria-label": head.name }, make("h3", { textContent: `${head.name} · ${headers?.get("X-Bundle") ?? "no answer"}` }), ...drawing);
}

function sideAnswer(task, head, answer, sent) {
  try {
    return DRAWERS[task](answer, sent, head);
  } catch {
    return [notice("bad", "This page does not understand the answer", "Reload the page.")];
  }
}

function verdict(task, found, sent) {
  if (found.some((each) => each.problem)) return "One of them did not answer.";
  try {
    const [first, second] = found.map(({ answer }) => gist(task, answer, sent) || "nothing");
    return first === second ? `Both answer ${first}.` : `They differ: ${first}, and ${second}.`;
  } catch {
    return "This page does not understand an answer.";
  }
}

/** Return the part of an answer that is compared: everything except scores. */
function gist(task, answer, sent) {
  if (task === "tag") return answer.map((span) => `${span.word} ${kindOf(span)}`).join(", ");
  const best = bestOf(task, answer);
  if (task === "rerank") return sent.texts[best.index];
  return best?.label ?? best?.token_str ?? best?.answer ?? "";
}
