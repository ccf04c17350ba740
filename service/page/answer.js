// Draws answers, by task. A drawer gets the answer to one input, the body that was sent, and the head.

const MAX_BARS = 12;
const STAGES = ["tokenize", "queue", "encode", "decode"];
const DRAWERS = { "classify": drawLabels, "pair": drawLabels, "fill-mask": drawMasks, "tag": drawSpans, "qa": drawAnswers, "zero-shot": (answer, ...asked) => drawLabels([answer], ...asked), "rerank": drawRanks };

async function run(byPerson = false) {
  const turn = ++state.turn, wrong = formFaults(), started = performance.now(); // a new turn, so that a late answer is ignored
  $("result").ariaBusy = "false";
  if (wrong.length) return showProblem({ title: "A parameter is not a number", text: "Nothing was sent. Correct it, then press Run.", errors: wrong }, byPerson);
  if (!state.heads.length) return runLater();
  const asked = { task: state.task, head: currentHead(), route: route(), body: body() };
  $("result").ariaBusy = "true";
  const found = await ask(asked.route, { body: asked.body });
  if (turn !== state.turn) return;
  $("result").ariaBusy = "false";
  if (found.problem) showProblem(found.problem, byPerson);
  else show(asked, found, performance.now() - started);
}

/** Connect first; then the page runs by itself. */
function runLater() {
  if ($("key-field").hidden) showProblem(NOT_READY);
  return connect();
}

function show(asked, { answer, headers }, elapsed) {
  showProblem(null);
  state.last = asked;
  try {
    const why = make("div", { id: "why", tabIndex: -1 }, ...whyButton(asked));
    $("result").replaceChildren(...drawn(asked, answer, headers), why, ...correction(asked, answer, headers.get("X-Bundle")), ...drawTiming(headers.get("Server-Timing") || "", elapsed), ...origin(answer, headers));
  } catch {
    showProblem({ title: "This page does not understand the answer", text: "Reload the page: the service may have a new version." });
  }
}

function drawn({ task, head, body }, answer, headers) {
  const cut = headers.get("X-Truncated");
  say("Answer: " + inWords(task, answer, body, head));
  const warning = cut ? [notice("warn", `${cut} tokens were cut`, "The text is longer than this head takes.")] : [];
  return [...warning, ...DRAWERS[task](answer, body, head)];
}

function origin(answer, headers) {
  return [
    make("p", { class: "about mono", textContent: `${headers.get("X-Bundle")} · request ${headers.get("X-Request-Id")}` }),
    make("details", {}, make("summary", { textContent: "JSON" }), scrolling("pre", "Answer as JSON", { textContent: JSON.stringify(answer, null, 2) })),
  ];
}

/** Show a problem and its remedy; with null, clear them. */
function showProblem(problem, byPerson = false) {
  const first = markFaults(problem?.errors || []);
  $("trouble").replaceChildren(...(problem ? [notice("bad", problem.title, problem.text)] : []));
  if (!problem) return;
  $("result").replaceChildren();
  state.last = null;
  if (problem.status === 401) $("key-field").hidden = false;
  if (byPerson) first?.focus();
}

/** Return a short description of an answer, for screen readers. */
function inWords(task, answer, body, head) {
  const best = bestOf(task, answer);
  if (task === "tag") return answer.length ? answer.map((span) => `${span.word}, ${kindOf(span)}`).join("; ") : "no entities";
  if (!best) return "none";
  const score = scoreWriter(body, head)(best.score);
  if (task === "rerank") return `${body.texts[best.index]}, ${score}`;
  return `${best.label ?? best.token_str ?? (best.answer || "the context does not say")}, ${score}`;
}

/** Return a function that writes a score: a probability as a percentage, another number as it is. */
function scoreWriter({ parameters, raw_scores: isRaw }, head) {
  const applied = parameters?.function_to_apply ?? head.parameters.function_to_apply;
  return isRaw || applied === "none" ? (score) => score.toFixed(3) : percent;
}

const bestOf = (task, answer) => [answer].flat(2)[0];

function bars(items, name, { onRest, write = percent } = {}) {
  const list = make("div", { class: "bars", tabIndex: -1 });
  const draw = (some, offset) => some.forEach((item, index) => list.append(
    make("span", { class: "name" + (offset + index === 0 ? " first" : ""), textContent: name(item), title: onRest ? onRest(item) : "" }),
    write === percent ? bar(item.score) : make("span"), make("span", { class: "score", textContent: write(item.score) })));
  draw(items.slice(0, MAX_BARS), 0);
  if (items.length <= MAX_BARS) return [list];
  const more = button(`Show all ${items.length}`, () => { draw(items.slice(MAX_BARS), MAX_BARS); list.focus(); more.remove(); });
  return [list, more];
}

function bar(share) {
  const fill = make("span", { class: "fill" });
  fill.style.width = 100 * share + "%";
  return make("span", { class: "track" }, fill);
}

function drawLabels([labels], body, head) {
  return bars(labels, (item) => item.label, { write: scoreWriter(body, head) });
}

function drawRanks(answer, body, head) {
  return bars(answer, (item) => body.texts[item.index], { write: scoreWriter(body, head) });
}

function drawMasks(answer, { inputs: text }) {
  const masks = Array.isArray(answer[0]) ? answer : [answer];
  const parts = text.split("[MASK]");
  const passage = scrolling("p", "Text", { class: "passage" });
  parts.forEach((part, index) => {
    passage.append(part);
    if (index < masks.length && masks[index][0]) passage.append(make("mark", { class: "h" + (index % 8), textContent: masks[index][0].token_str }));
  });
  return [passage, ...masks.flatMap((choices, index) => [
    ...(masks.length > 1 ? [make("h3", { textContent: `Mask ${index + 1}` })] : []), ...bars(choices, (item) => item.token_str, { onRest: (item) => item.sequence })])];
}

// Offsets count Unicode characters; JavaScript's strings count UTF-16 units.
function passageWith(text, spans, name = "Text") {
  const characters = Array.from(text);
  const passage = scrolling("p", name, { class: "passage" });
  let end = 0;
  for (const span of [...spans].sort((a, b) => a.start - b.start)) {
    if (span.start < end || span.end <= span.start) continue;
    passage.append(characters.slice(end, span.start).join(""));
    const mark = make("mark", { class: "h" + (span.hue % 8), title: span.title }, characters.slice(span.start, span.end).join(""));
    if (span.tag) mark.append(make("span", { class: "tag", textContent: span.tag }));
    passage.append(mark);
    end = span.end;
  }
  passage.append(characters.slice(end).join(""));
  return passage;
}

const kindOf = (span) => span.entity_group ?? span.entity;
const kindsOf = (head) => [...new Set(head.labels.map((label) => label.replace(/^[BI]-/, "")))].filter((label) => label !== "O");

function drawSpans(spans, { inputs: text }, head) {
  const kinds = kindsOf(head);
  const hue = (span) => Math.max(0, kinds.indexOf(kindOf(span).replace(/^[BI]-/, "")));
  const passage = passageWith(text, spans.map((span) => ({ ...span, hue: hue(span), tag: kindOf(span), title: percent(span.score) })));
  if (!spans.length) return [passage, make("p", { class: "empty", textContent: "No entities found." })];
  const rows = spans.map((span) => [span.word, kindOf(span), [`${span.start}–${span.end}`, "number place"], [percent(span.score), "number"]]);
  return [passage, table(["Words", "Entity", ["Characters", "number place"], ["Score", "number"]], rows)];
}

function drawAnswers(answer, { inputs: { context } }) {
  const answers = Array.isArray(answer) ? answer : [answer];
  const best = answers[0];
  if (!best) return [make("p", { class: "empty", textContent: "No answer." })];
  const title = best.answer ? make("p", { class: "answer", textContent: best.answer }) : make("p", { class: "answer none", textContent: "The context does not say." });
  if (answers.length === 1) title.append(make("span", { class: "hint", textContent: "  " + percent(best.score) }));
  const spans = best.answer ? [{ ...best, hue: 0, title: percent(best.score) }] : [];
  return [title, ...(answers.length > 1 ? bars(answers, (item) => item.answer || "no answer") : []), passageWith(context, spans)];
}

function drawTiming(header, elapsed) {
  const server = Object.fromEntries([...header.matchAll(/(\w+);dur=([\d.]+)/g)].map(([, stage, value]) => [stage, Number(value)]));
  const rest = Math.max(0, elapsed - STAGES.reduce((sum, stage) => sum + (server[stage] || 0), 0));
  const stages = [...STAGES.map((stage) => [stage, server[stage] || 0]), ["network and browser", rest]];
  const strip = make("div", { class: "timing", role: "img", "aria-label": "Share of each stage" }, ...stages.map(([, value], index) => {
    const part = make("span", { class: "s" + index });
    part.style.flex = String(value);
    return part;
  }));
  const legend = make("div", { class: "legend" }, ...stages.map(([stage, value], index) => make("span", { class: "d" + index, textContent: `${stage} ${milliseconds(value)}` })));
  return [make("h3", { textContent: "Time" }), strip, legend];
}
