// Many texts: sends the rows of a table in batches, and offers the answers as CSV.

const MAX_FILE = 32 << 20; // bytes
const MAX_ROWS = 64; // rows per request
const MAX_TRIES = 5; // attempts per request
const MAX_SHOWN = 20; // rows of the preview
const NEW_JOB = { table: null, running: null, answers: [], faults: [], cut: 0, key: "", bundle: "" };
const job = { ...NEW_JOB };

const manyState = (text) => { $("many-state").textContent = text; };

async function readFile(file) {
  if (!file) return;
  if (file.size > MAX_FILE) return loadTable("", `${file.name} has ${(file.size / 1048576).toFixed(0)} MB, and this page takes 32 MB. Use the command bertheads-score.`);
  const bytes = await file.arrayBuffer().catch(() => null);
  if (!bytes) return loadTable("", `The browser cannot read ${file.name}. Choose a file, not a folder; if it changed since you chose it, choose it again.`);
  try {
    loadTable(decodedText(bytes), "", file.name);
  } catch {
    loadTable("", `${file.name} is not text in UTF-8. In a spreadsheet, save it as “CSV UTF-8”, then choose it again.`);
  }
}

/** Return the text of a file in UTF-8, or in UTF-16 with its mark, as Excel writes “Unicode text”. */
function decodedText(bytes) {
  const [first, second] = new Uint8Array(bytes, 0, Math.min(2, bytes.byteLength));
  const encoding = { 0xfffe: "utf-16le", 0xfeff: "utf-16be" }[(first << 8) | second] ?? "utf-8";
  return new TextDecoder(encoding, { fatal: true }).decode(bytes);
}

/** Read a text as the table, or show why that is not possible. */
function loadTable(text, wrong = "", name = "") {
  job.running?.abort();
  Object.assign(job, NEW_JOB, { answers: [], faults: [], text, name });
  showRunning(false);
  $("many-count").textContent = "";
  $("many-results").replaceChildren();
  try {
    if (!wrong && text.trim()) job.table = readTable(text, $("many-format").value, name);
  } catch (error) {
    wrong = error.message;
  }
  drawColumns();
  manyState(wrong || (job.table ? `${name ? name + ": " : ""}${describeTable(job.table)}` : ""));
}

function describeTable({ kind, names, rows }) {
  const hint = names.some(isUsual) ? "" : " If the first line is not names of columns, add a line with names before it.";
  return `${counted(rows.length, "row")}, read as ${kind}. Columns: ${names.join(", ")}.${hint}`;
}

function drawColumns() {
  const names = job.table?.names ?? [];
  const fields = [...textFields(state.task), ["label", "Right label, if there is one", ""]];
  $("many-columns").replaceChildren(...(job.table ? fields.map(([field, label]) => columnField(field, label, names)) : []));
  $("many-start").disabled = !job.table?.rows.length || job.running !== null || !currentHead();
}

function columnField(field, label, names) {
  const options = names.map((name, index) => make("option", { value: String(index), textContent: name }));
  if (field === "label") options.unshift(make("option", { value: "", textContent: "none" }));
  const control = make("select", { id: "column-" + field }, ...options);
  const usual = names.findIndex((name) => USUAL[field].includes(name.trim().toLowerCase()));
  control.value = String(usual >= 0 ? usual : field === "label" ? "" : 0);
  return labeled(`Column: ${label}`, control);
}

// ---- sending ----

async function startMany() {
  const running = job.running = new AbortController();
  const asked = askedNow();
  if (job.key !== asked.key) Object.assign(job, { answers: [], faults: [], cut: 0, bundle: "", key: asked.key });
  showRunning(true);
  showProgress();
  let end = "Finished.";
  try {
    const open = job.table.rows.map((_, index) => index).filter((index) => !job.answers[index] && !job.faults[index]);
    const size = Math.min(MAX_ROWS, asked.head.limits.max_items);
    for (let at = 0; at < open.length; at += size) await sendRows(asked, open.slice(at, at + size), running.signal);
  } catch (error) {
    end = `${running.signal.aborted ? "Stopped." : error.message}${job.key ? " Start goes on where it stopped." : ""}`;
  }
  if (job.running !== running) return; // another table was loaded meanwhile
  job.running = null;
  finishMany(asked, end);
}

/** Return what all requests have in common. If its `key` changes, earlier answers are dropped. */
function askedNow() {
  const columns = textFields(state.task).map(([field]) => [field, Number($("column-" + field).value)]);
  const asked = { task: state.task, head: currentHead(), route: route(), parameters: body().parameters, columns, label: $("column-label").value };
  return { ...asked, key: JSON.stringify([asked.route, asked.head.name, asked.head.sha256, asked.parameters, columns]) };
}

/** Send some rows, and retry if needed; if a list is refused, send its halves, to find the wrong row. */
async function sendRows(asked, rows, signal) {
  for (let tries = 1; ; tries++) {
    const { answer, headers, problem } = await ask(asked.route, { body: listOf(asked, rows), signal });
    if (!problem) return takeAnswers(rows, answer, headers);
    if (problem.errors?.some(({ field }) => field.startsWith("parameters"))) throw new Error(`${problem.title}. ${problem.text}`); // concerns all rows
    if ([413, 422].includes(problem.status)) return splitRows(asked, rows, problem, signal);
    const busy = [429, 503].includes(problem.status);
    if (!busy && ([401, 403, 404].includes(problem.status) || tries === MAX_TRIES)) throw new Error(`${problem.title}. ${problem.text}`);
    manyState(`${problem.title}. Trying again in ${problem.wait ?? tries} s.`);
    await sleep((problem.wait ?? tries) * 1000, signal);
  }
}

async function splitRows(asked, rows, problem, signal) {
  if (rows.length === 1) {
    job.faults[rows[0]] = problem.text || problem.title;
    return showProgress();
  }
  const half = rows.length >> 1;
  await sendRows(asked, rows.slice(0, half), signal);
  await sendRows(asked, rows.slice(half), signal);
}

function listOf({ columns, parameters }, rows) {
  const inputs = rows.map((index) => {
    const texts = Object.fromEntries(columns.map(([field, column]) => [field, job.table.rows[index][column]]));
    return columns.length === 1 ? texts.text : texts;
  });
  return { inputs, ...(parameters ? { parameters } : {}) };
}

function takeAnswers(rows, answer, headers) {
  if (!Array.isArray(answer) || answer.length !== rows.length) throw new Error("This page does not understand the answer. Reload it.");
  const bundle = headers.get("X-Bundle");
  if (job.bundle && job.bundle !== bundle) {
    job.key = ""; // no answers of two versions in one file
    throw new Error(`The service changed from ${job.bundle} to ${bundle}. Press Start to answer all rows again.`);
  }
  job.bundle = bundle;
  rows.forEach((index, place) => { job.answers[index] = answer[place]; });
  job.cut += Number(headers.get("X-Truncated")) || 0;
  showProgress();
}

function showProgress() {
  const done = job.answers.filter(Boolean).length + job.faults.filter(Boolean).length, all = job.table.rows.length;
  Object.assign($("many-progress"), { max: all, value: done });
  $("many-count").textContent = `${done} of ${counted(all, "row")}`;
}

const sleep = (time, signal) => new Promise((done, fail) => {
  setTimeout(done, time);
  signal.addEventListener("abort", () => fail(signal.reason));
});

// ---- results ----

function showRunning(running) {
  $("many-progress").hidden = !running;
  $("many-stop").disabled = !running;
  $("many-start").disabled = running;
  if (running) manyState("Running.");
}

function finishMany(asked, sentence) {
  showRunning(false);
  const rows = resultRows(asked), failed = job.faults.filter(Boolean).length;
  const facts = [sentence, failed ? `${counted(failed, "row")} failed; the column error says why.` : "", job.cut ? `Tokens that were cut: ${job.cut}.` : "", accuracyOf(asked)];
  manyState(facts.filter(Boolean).join(" "));
  const save = button("Download CSV", () => download("answers.csv", "text/csv", writeCsv(rows, job.table.kind === "CSV ;" ? ";" : ",")));
  const shown = rows.slice(0, MAX_SHOWN + 1).map((row) => row.map((cell) => String(cell).slice(0, 200)));
  const preview = make("div", { class: "wide", tabIndex: 0, role: "region", "aria-label": "First rows" }, table(shown[0], shown.slice(1)));
  const about = rows.length > shown.length ? [make("p", { class: "about", textContent: `Below are the first ${MAX_SHOWN} rows; the file has all ${rows.length - 1}.` })] : [];
  $("many-results").replaceChildren(save, ...about, preview);
}

/** Return the names and the rows of the table, with the answers added. */
function resultRows({ task, head }) {
  const { names, rows } = job.table;
  const free = (name) => (names.includes(name) ? free(`${name}_of_${head.name}`) : name);
  const added = ["prediction", "score", "answer", "error"].map(free);
  return [[...names, ...added], ...rows.map((row, index) => [...row, ...answerCells(task, job.answers[index]), job.faults[index] ?? ""])];
}

function answerCells(task, answer) {
  if (!answer) return ["", "", ""];
  const best = task === "tag" ? undefined : bestOf(task, answer);
  return [best ? best.label ?? best.token_str ?? best.answer : "", best?.score ?? "", JSON.stringify(answer)];
}

function accuracyOf({ task, head, label: column, parameters }) {
  if (column === "" || !["classify", "pair", "zero-shot"].includes(task)) return "";
  if (task === head.task && head.problem_type !== "single_label_classification") return "Accuracy is for heads that give one label.";
  const labels = task === head.task ? head.labels : parameters.candidate_labels ?? [];
  const wanted = job.table.rows.map((row) => labelNamed(row[column], labels));
  const scored = [...job.answers.keys()].filter((index) => job.answers[index] && wanted[index] !== "");
  const right = scored.filter((index) => bestOf(task, job.answers[index])?.label === wanted[index]).length;
  const strange = [...new Set(scored.map((index) => wanted[index]))].filter((label) => !labels.includes(label));
  const note = strange.length ? ` The head does not have the labels ${strange.slice(0, 5).join(", ")}.` : "";
  return scored.length ? `Accuracy: ${percent(right / scored.length)} (${right} of ${scored.length}).${note}` : "No row has a label.";
}

/** Return the label that a cell means, even if case, spaces or the encoding of accents differ. */
function labelNamed(cell, labels) {
  const plain = (text) => text.trim().normalize("NFC").toLowerCase();
  return labels.find((label) => label === cell) ?? labels.find((label) => plain(label) === plain(cell)) ?? cell.trim();
}

function listenToMany() {
  $("many-text").addEventListener("input", () => loadTable($("many-text").value));
  $("many-file").addEventListener("click", () => { $("many-file").value = ""; }); // so that the same file can be chosen again
  $("many-file").addEventListener("change", () => readFile($("many-file").files[0]));
  $("many-format").addEventListener("change", () => loadTable(job.text ?? "", "", job.name));
  $("many-start").addEventListener("click", startMany);
  $("many-stop").addEventListener("click", () => job.running?.abort());
  addEventListener("dragover", (event) => { if (hasFile(event)) event.preventDefault(); });
  addEventListener("drop", dropFile); // anywhere, because the browser would leave this page to show the file
}

const hasFile = (event) => event.dataTransfer.types.includes("Files");

function dropFile(event) {
  if (!hasFile(event)) return;
  event.preventDefault();
  if ($("many").hidden) return tell(`${TASKS[state.task].title} does not read files`, "Paste the texts, or choose another tab for the file.");
  $("many").open = true;
  $("many").scrollIntoView({ block: "nearest" });
  readFile(event.dataTransfer.files[0]);
}
