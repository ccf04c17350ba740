// Corrections: what a head should have answered. They are stored in this browser and can be downloaded as training data.

const corrections = () => [stored("localStorage", "corrections", [])].flat();
const SPANS = /^(.*\S)\s*=\s*(\S+)$/; // a line of the editor of spans

/** Return the form in which a user corrects an answer, or nothing for heads that cannot be corrected. */
function correction(asked, answer, bundle) {
  const { task, labels } = asked.head;
  if (asked.task !== task || task === "fill-mask" || (task === "tag" && !labels.some((label) => label.startsWith("B-")))) return [];
  const control = rightControl(asked.head, answer);
  const keep = button("Keep correction", () => keepCorrection(asked, answer, bundle, control));
  return [make("details", { id: "correct" }, make("summary", { textContent: "Wrong? Correct it" }), labelled(hintOf(asked.head), control), keep)];
}

function rightControl({ task, labels, problem_type }, answer) {
  const id = "right";
  if (task === "tag") return make("textarea", { id, value: answer.map((span) => `${span.word} = ${kindOf(span)}`).join("\n") });
  if (task === "qa") return make("input", { id, value: bestOf(task, answer)?.answer ?? "" });
  if (problem_type !== "single_label_classification") return make("input", { id });
  return make("select", { id }, ...labels.map((label) => make("option", { value: label, textContent: label })));
}

function hintOf({ task, problem_type }) {
  if (task === "tag") return "All entities in the order of the text, one per line: words = TYPE";
  if (task === "qa") return "Right answer, as the context writes it; empty if it does not say";
  const hints = { multi_label_classification: "All right labels, separated by commas", regression: "Right number" };
  return hints[problem_type] ?? "Right label";
}

function keepCorrection(asked, answer, bundle, control) {
  try {
    const line = lineOf(asked, answer, bundle, control.value);
    const kept = store("localStorage", "corrections", [...corrections(), { head: asked.head.name, line }]);
    tell(kept ? "Correction kept" : "The browser does not let this page store corrections", kept ? "Download it below, under Corrections." : "Allow storage for this page, then press Keep again.");
    drawCorrections();
    $("right-fault").textContent = "";
  } catch (error) {
    $("right-fault").textContent = error.message;
    say(error.message);
  }
}

/** Return a line of training data, with the fields that `python -m training` reads. */
function lineOf({ head, body: { inputs } }, answer, bundle, right) {
  const texts = head.task === "pair" ? { text_a: inputs.text, text_b: inputs.text_pair } : typeof inputs === "string" ? { text: inputs } : inputs;
  const best = head.task === "tag" ? null : bestOf(head.task, answer);
  const [field, value] = rightValue(head, inputs, right, best);
  const sample = { head: head.name, bundle, score: best?.score ?? null, time: new Date().toISOString() };
  const about = JSON.stringify({ ...(head.task === "qa" ? { id: `correction-${Date.now()}` } : {}), prediction: best ? best.label ?? best.answer : answer, sample });
  return `${JSON.stringify(texts).slice(0, -1)},"${field}":${value},${about.slice(1)}`;
}

/** Return the field for the right answer and its value as JSON; throw an Error if the user's text is invalid. */
function rightValue({ task, labels, problem_type }, inputs, right, best) {
  if (task === "tag") return ["spans", JSON.stringify(rightSpans(inputs, right, kindsOf({ labels })))];
  if (task === "qa") return ["answers", JSON.stringify(rightAnswer(inputs.context, right.trim(), best?.start ?? 0))];
  if (problem_type === "regression") return ["label", rightNumber(right)];
  if (problem_type === "single_label_classification") return ["label", JSON.stringify(right)];
  const chosen = READ.list(right), strange = chosen.filter((label) => !labels.includes(label));
  if (strange.length) throw new Error(`${strange[0]} is not a label of this head. Its labels are ${labels.join(", ")}.`);
  return ["label", JSON.stringify(chosen)];
}

function rightNumber(text) {
  if (!isNumber(text)) throw new Error(`"${text}" is not a number. Write one such as 3.5.`);
  const written = String(Number(text));
  return /[.e]/.test(written) ? written : written + ".0"; // training would read 3 as the name of a class
}

function rightAnswer(context, answer, near) {
  if (!answer) return { text: [], answer_start: [] };
  const places = [...context.matchAll(new RegExp(RegExp.escape?.(answer) ?? answer.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&"), "g"))].map((found) => length(context.slice(0, found.index)));
  if (!places.length) throw new Error("The context does not have this answer. Copy it from there, letter by letter.");
  return { text: [answer], answer_start: [places.reduce((a, b) => (Math.abs(b - near) < Math.abs(a - near) ? b : a))] };
}

const length = (text) => Array.from(text).length; // in characters, as training counts

function rightSpans(text, lines, kinds) {
  let end = 0;
  return lines.split("\n").filter((line) => line.trim()).map((line) => {
    const [, words, kind] = SPANS.exec(line.trim()) ?? [];
    if (!kinds.includes(kind)) throw new Error(`"${line}" is not written as words = TYPE. The types are ${kinds.join(", ")}.`);
    const start = text.indexOf(words, end);
    if (start < 0) throw new Error(`"${words}" is not in the text after the line before. Keep the order of the text.`);
    end = start + words.length;
    return [length(text.slice(0, start)), length(text.slice(0, end)), kind];
  });
}

// ---- list ----

function drawCorrections() {
  const all = corrections(), heads = [...new Set(all.map(({ head }) => head))];
  const save = heads.map((head) => button(`Download ${head}.jsonl`, () => download(`${head}.jsonl`, "application/jsonl", linesOf(head))));
  const items = all.map(({ head, line }, index) => make("li", {}, make("code", { textContent: `${head}: ${line.slice(0, 160)}` }), " ", button("Remove", () => removeCorrection(index), { "aria-label": `Remove correction ${index + 1}` })));
  const about = all.length ? "They hold your texts, and stay in this browser until you remove them." : "None yet. Open “Wrong? Correct it” below an answer.";
  $("corrections").replaceChildren(make("p", { class: "about", textContent: about }), make("div", { class: "row" }, ...save), make("ol", {}, ...items));
}

const linesOf = (head) => corrections().filter((each) => each.head === head).map(({ line }) => line + "\n").join("");

function removeCorrection(index) {
  store("localStorage", "corrections", corrections().filter((_, each) => each !== index));
  drawCorrections();
  say("Removed");
}
