// Corrections: what a head should have answered. They are stored in this browser and can be downloaded as training data.

const corrections = () => [stored("localStorage", "corrections", [])].flat().filter(isCorrection); // another page may have written there
const isCorrection = (value) => typeof value?.head === "string" && typeof value.line === "string";
const SPANS = /^(.*\S)\s*=\s*(\S+)$/; // a line of the editor of spans

/** Return the form in which a user corrects an answer, or nothing for heads that cannot be corrected. */
function correction(asked, answer, bundle) {
  const { task, labels } = asked.head;
  if (asked.task !== task || task === "fill-mask") return [];
  if (task === "tag" && (!labels.some((label) => label.startsWith("B-")) || answer.some((span) => span.entity))) return []; // no whole entities
  const control = rightControl(asked.head, answer);
  const keep = button("Keep correction", () => keepCorrection(asked, answer, bundle, control));
  return [make("details", { id: "correct" }, make("summary", { textContent: "Wrong? Correct it" }), labeled(hintOf(asked.head), control), keep)];
}

function rightControl({ task, labels, problem_type }, answer) {
  const id = "right";
  if (task === "tag") return make("textarea", { id, value: answer.map((span) => `${inOneLine(span.word)} = ${kindOf(span)}`).join("\n") });
  if (task === "qa") return make("input", { id, value: inOneLine(bestOf(task, answer)?.answer ?? "") });
  if (problem_type !== "single_label_classification") return make("input", { id });
  return make("select", { id }, make("option", { value: "", textContent: "choose" }), ...labels.map((label) => make("option", { value: label, textContent: label })));
}

function hintOf({ task, problem_type }) {
  if (task === "tag") return "All entities in the order of the text, one per line: words = TYPE";
  if (task === "qa") return "Right answer, as the context writes it; empty if it does not say";
  const hints = { multi_label_classification: "All right labels, separated by commas", regression: "Right number" };
  return hints[problem_type] ?? "Right label";
}

function keepCorrection(asked, answer, bundle, control) {
  try {
    const line = lineOf(asked, answer, bundle, control.value), head = asked.head.name;
    const others = corrections().filter((each) => each.head !== head || textsOf(each.line) !== textsOf(line)); // one correction per text
    const kept = store("localStorage", "corrections", [...others, { head, line }]);
    if (kept) tell("Correction kept", "Download it below, under Corrections.");
    else tell("The browser does not store the correction", "Its storage for this page is full or blocked. Download and remove other corrections, or allow storage, then press Keep correction again.");
    drawCorrections();
    $("right-fault").textContent = "";
  } catch (error) {
    $("right-fault").textContent = error.message;
    say(error.message);
  }
}

/** Return the texts of a line of training data, by which two corrections of the same input are recognized. */
function textsOf(line) {
  const { text, text_a, text_b, question, context } = parsed(line) ?? {};
  return JSON.stringify([text, text_a, text_b, question, context]);
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
  if (problem_type === "single_label_classification") {
    if (!right) throw new Error("Choose the right label.");
    return ["label", JSON.stringify(right)];
  }
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
  const places = placesOf(answer, context).map((place) => ({ ...place, far: Math.abs(length(context.slice(0, place.start)) - near) }));
  if (!places.length) throw new Error("The context does not have this answer. Copy it from there, letter by letter.");
  const { text, start } = places.reduce((a, b) => (b.far < a.far ? b : a));
  return { text: [text], answer_start: [length(context.slice(0, start))] };
}

const inOneLine = (text) => text.replace(/\s+/g, " ");

/** Return where a text has some words, as { text, start }; any space may be between them, as the user writes them in one line. */
function placesOf(words, text) {
  const pattern = words.split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("\\s+");
  return [...text.matchAll(new RegExp(pattern, "g"))].map((found) => ({ text: found[0], start: found.index }));
}

const length = (text) => Array.from(text).length; // in characters, as training counts

function rightSpans(text, lines, kinds) {
  let end = 0;
  return lines.split("\n").filter((line) => line.trim()).map((line) => {
    const [, words, kind] = SPANS.exec(line.trim()) ?? [];
    if (!kinds.includes(kind)) throw new Error(`"${line}" is not written as words = TYPE. The types are ${kinds.join(", ")}.`);
    const place = placesOf(words, text).find(({ start }) => start >= end);
    if (!place) throw new Error(`"${words}" is not in the text after the line before. Keep the order of the text.`);
    end = place.start + place.text.length;
    return [length(text.slice(0, place.start)), length(text.slice(0, end)), kind];
  });
}

// ---- list ----

function drawCorrections() {
  const all = corrections(), heads = [...new Set(all.map(({ head }) => head))];
  const save = heads.map((head) => button(`Download ${head}.jsonl`, () => download(`${head}.jsonl`, "application/jsonl", linesOf(head))));
  const items = all.map(({ head, line }, index) => make("li", {}, make("code", { textContent: `${head}: ${line.slice(0, 160)}` }), " ", button("Remove", () => removeCorrection(line, index), { "aria-label": `Remove correction ${index + 1}` })));
  const about = all.length ? "They hold your texts, and stay in this browser until you remove them." : "None yet. Open “Wrong? Correct it” below an answer.";
  $("corrections").replaceChildren(make("p", { class: "about", textContent: about }), make("div", { class: "row" }, ...save), make("ol", {}, ...items));
}

const linesOf = (head) => corrections().filter((each) => each.head === head).map(({ line }) => line + "\n").join("");

function removeCorrection(line, index) {
  store("localStorage", "corrections", corrections().filter((each) => each.line !== line));
  drawCorrections();
  const others = $("corrections").querySelectorAll("li button");
  (others[index] ?? others[index - 1] ?? $("corrections")).focus(); // the button disappears
  say("Removed");
}
