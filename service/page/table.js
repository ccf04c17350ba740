// Tables as text: CSV, TSV, JSON lines, or one text per line.

const USUAL = {
  text: ["text", "sentence", "utterance", "content", "body", "text_a", "sentence1", "premise", "question1", "text1"],
  text_pair: ["text_pair", "text_b", "sentence2", "hypothesis", "question2", "text2"],
  question: ["question"], context: ["context"],
  label: ["label", "intent", "category", "class", "target", "sentiment", "labels", "gold_label"],
}; // usual column names, in lower case

const isUsual = (name) => Object.values(USUAL).flat().includes(name.trim().toLowerCase());

/** Parse a text; return { names, rows }, or throw an Error that says what is wrong. */
function readTable(text, format = "") {
  const kind = format || formatOf(text);
  if (kind === "JSON lines") return jsonTable(text);
  if (kind === "lines") return { kind, names: ["text"], rows: text.split(/\r\n|\r|\n/).filter((line) => line.trim()).map((line) => [line]) };
  const [names, ...rows] = records(text, kind === "TSV" ? "\t" : kind === "CSV ;" ? ";" : ",");
  if (!names || new Set(names).size < names.length) throw new Error("Two columns have the same name. Rename one of them in the first line.");
  const wrong = rows.findIndex((row) => row.length !== names.length);
  if (wrong >= 0) throw new Error(`Row ${wrong + 1} has ${rows[wrong].length} cells, but the first line names ${names.length} columns. Correct it, or choose another format.`);
  return { kind, names, rows };
}

/** Guess the format: a table has a usual column name in its first line. */
function formatOf(text) {
  const first = text.trimStart().split(/[\r\n]/, 1)[0];
  if (first.startsWith("{")) return "JSON lines";
  const found = [["TSV", "\t"], ["CSV", ","], ["CSV ;", ";"]].find(([, mark]) => first.includes(mark) && (records(first, mark)[0] ?? []).some(isUsual));
  return found ? found[0] : isUsual(first.replaceAll('"', "")) ? "CSV" : "lines";
}

/** Return the cells of each non-blank line (RFC 4180). */
function records(text, mark) {
  const cell = new RegExp(`("(?:[^"]|"")*"|[^${mark}\r\n]*)(${mark}|\r\n|\r|\n|$)`, "gy");
  const found = [];
  for (let row = [], match; (match = cell.exec(text)) && (match[0] || row.length);) {
    row.push(match[1].startsWith('"') && match[1].length > 1 ? match[1].slice(1, -1).replaceAll('""', '"') : match[1]);
    if (match[2] === mark) continue;
    if (row.some(Boolean)) found.push(row);
    row = [];
    if (!match[2]) break;
  }
  return found;
}

function jsonTable(text) {
  const lines = text.split(/\r\n|\r|\n/).map((line, index) => [line, index + 1]).filter(([line]) => line.trim());
  const objects = lines.map(([line, number]) => {
    const value = parsed(line);
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`Line ${number} is not a JSON object. Correct it, or choose another format.`);
    return value;
  });
  const names = [...new Set(objects.flatMap(Object.keys))];
  const written = (value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
  return { kind: "JSON lines", names, rows: objects.map((each) => names.map((name) => written(Object.hasOwn(each, name) ? each[name] : undefined))) };
}

function writeCsv(rows) {
  const cell = (value) => (/[",\r\n]|^\s|\s$/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}
