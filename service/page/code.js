// The same request as code. The key itself never appears; the code reads it from a variable.

const LANGUAGES = { curl: ["curl", curl], python: ["Python", python], javascript: ["JavaScript", javascript] };

const pageAddress = () => location.href.replace(/[?#].*/, "");
const hasKey = () => $("key").value !== "";
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`; // for a shell

/** Return the header with the key, as UTF-8 bytes, because fetch accepts only Latin-1 characters in headers. */
function keyHeader() {
  const bytes = new TextEncoder().encode($("key").value.trim().replace(/[\0-\x1f\x7f]/g, ""));
  return bytes.length ? { Authorization: "Bearer " + String.fromCharCode(...bytes) } : {};
}

function drawCode() {
  $("code").textContent = LANGUAGES[state.language][1](String(new URL(route(), pageAddress())), body());
}

function chooseLanguage(language) {
  state.language = language;
  selectTab("languages", language);
  drawCode();
}

function curl(address, sent) {
  const data = quoted(JSON.stringify(sent, null, 1).replace(/\n\s*/g, " "));
  const key = hasKey() ? " \\\n  -H 'Authorization: Bearer '\"$KEY\"" : "";
  return `curl ${address} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d ${data}`;
}

function python(address, sent) {
  const [imports, key] = hasKey() ? ["import os\n\nimport requests", `headers={"Authorization": "Bearer " + os.environ["KEY"]}, `] : ["import requests", ""];
  const post = `requests.post("${address}", ${key}json=body, timeout=60)`;
  return `${imports}\n\nbody = ${pythonic(sent)}\nresponse = ${post}\nresponse.raise_for_status()\nprint(response.json())`;
}

/** Return a JSON value as Python code; JSON strings are valid Python strings. */
function pythonic(value) {
  if (Array.isArray(value)) return `[${value.map(pythonic).join(", ")}]`;
  if (value === null || typeof value === "boolean") return { null: "None", true: "True", false: "False" }[value];
  if (typeof value !== "object") return JSON.stringify(value);
  return `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonic(each)}`).join(", ")}}`;
}

function javascript(address, sent) {
  const key = hasKey() ? ', "Authorization": "Bearer " + process.env.KEY' : "";
  return [
    `const response = await fetch("${address}", {`,
    `  method: "POST",`,
    `  headers: { "Content-Type": "application/json"${key} },`,
    `  body: JSON.stringify(${JSON.stringify(sent)}),`,
    `});`,
    `if (!response.ok) throw new Error(await response.text());`,
    `console.log(JSON.stringify(await response.json()));`,
  ].join("\n");
}
