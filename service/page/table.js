// Tables as text: CSV, TSV, JSON lines, or one text per line.

const USUAL = {
  text: ["text", "sentence", "utterance", "content", "body", "text_a", "sentence1", "premise", "question1", "text1"],
  text_pair: ["text_pair", "text_b", "sentence2", "hypothesis", "question2", "text2"],
  question: ["question"], context: ["context"],
  label: ["label", "intent", "category", "class", "target", "sentiment", "labels", "gold_label"],
}; // usual column names, in lower case

const isUsual = (name) => Object.values(USUAL).flat().includes(name.trim().toLowerCase());

const KINDS = { ",": "CSV", ";": "CSV ;", "\t": "TSV" }; // by separator

/** Parse a text; return { kind, names, rows }, or throw an Error that says what is wrong. */
function readTable(text, format = "", file = "") {
  const [, mark, rest] = /^\ufeff?(?:sep=(.)\r?\n)?([^]*)$/.exec(text); // spreadsheets write both
  const kind = format || KINDS[mark] || formatOf(rest, file);
  if (kind === "JSON lines") return jsonTable(rest);
  if (kind === "lines") return { kind, names: ["text"], rows: linesIn(rest).filter((line) => line.trim()).map((line) => [line]) };
  return { kind, ...cellTable(records(rest, Object.keys(KINDS).find((each) => KINDS[each] === kind))) };
}

const linesIn = (text) => text.split(/\r\n|\r|\n/);

/** Guess the format: a table has a usual column name in its first line, or comes from a file with the name of one. */
function formatOf(text, file) {
  const first = text.trimStart().split(/[\r\n]/, 1)[0];
  if (first.startsWith("{")) return "JSON lines";
  const cells = (mark) => first.replaceAll('"', "").split(mark);
  const marks = Object.keys(KINDS).sort((a, b) => cells(b).length - cells(a).length);
  const usual = marks.find((mark) => cells(mark).some(isUsual));
  return usual || /[.](csv|tsv|tab)$/i.test(file) ? KINDS[usual ?? marks[0]] : "lines";
}

/** Return the rows of cells (RFC 4180), empty ones too, so that a row has the number that a spreadsheet shows. */
function records(text, mark) {
  const cell = new RegExp(`(?:"([^"]*(?:""[^"]*)*)"|([^"${mark}\r\n][^${mark}\r\n]*|))(${mark}|\r\n|\r|\n|$)`, "y");
  const found = [[]];
  for (let end = mark; end; ) {
    const match = cell.exec(text);
    if (!match && mark === "\t") return linesIn(text).map((line) => line.split(mark)); // quotes are often plain characters there
    if (!match) throw new Error(`The quotation marks in row ${found.length} do not match. Write one inside a quoted cell twice (""), or choose another format.`);
    end = match[3];
    found.at(-1).push(match[1]?.replaceAll('""', '"') ?? match[2]);
    if (end && end !== mark) found.push([]);
  }
  return found;
}

/** Return names and rows, without empty rows, and without empty columns at the end. */
function cellTable(all) {
  const filled = all.map((cells, index) => ({ cells, number: index + 1 })).filter(({ cells }) => cells.some(Boolean));
  const columns = filled[0]?.cells.length, wrong = filled.find(({ cells }) => cells.length !== columns);
  if (wrong) throw new Error(`Row ${wrong.number} has ${counted(wrong.cells.length, "cell")}, but the first line names ${counted(columns, "column")}. Correct it, or choose another format.`);
  const width = filled.reduce((most, { cells }) => Math.max(most, cells.findLastIndex(Boolean) + 1), 0);
  const [first = [], ...rows] = filled.map(({ cells }) => cells.slice(0, width));
  const names = first.map((name, index) => name || `column ${index + 1}`);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice) throw new Error(`Two columns have the same name: ${twice}. Rename one of them in the first line.`);
  return { names, rows };
}

function jsonTable(text) {
  const lines = linesIn(text).map((line, index) => [line, index + 1]).filter(([line]) => line.trim());
  const objects = lines.map(([line, number]) => {
    const value = parsed(line);
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`Line ${number} is not a JSON object. Correct it, or choose another format.`);
    return value;
  });
  const names = [...new Set(objects.flatMap(Object.keys))];
  const written = (value) => (typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value));
  return { kind: "JSON lines", names, rows: objects.map((each) => names.map((name) => written(Object.hasOwn(each, name) ? each[name] : undefined))) };
}

/** Return CSV that spreadsheets open: the byte order mark says that characters beyond ASCII are UTF-8. */
function writeCsv(rows, mark) {
  const cell = (value) => (/[",;\r\n]|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const text = rows.map((row) => row.map((value) => cell(String(value))).join(mark) + "\r\n").join("");
  return (/[^\0-\x7f]/.test(text) ? "\ufeff" : "") + text;
}
