// The page's link is #task/head?name=value&…, with the values of the form. The browser never sends what follows #.

const MAX_LINK = 16_000; // characters; mail and chat programs break longer links

function readLink(hash) {
  const [path, query] = [hash.slice(1).split("?", 1)[0], hash.slice(1).split("?").slice(1).join("?")];
  const [task, ...name] = path.split("/").map(decoded);
  return { task, name: name.join("/"), values: new Map(new URLSearchParams(query)) };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function writeLink() {
  const linked = readLink(location.hash);
  const name = currentHead()?.name ?? (linked.task === state.task ? linked.name : ""); // heads may not be known yet
  const values = new URLSearchParams(givenValues());
  const whole = `#${state.task}${name ? "/" + encodeURIComponent(name) : ""}`;
  const link = `${whole}?${values}`;
  state.cut = link.length > MAX_LINK;
  history.replaceState(null, "", state.cut ? whole : link);
}

/** Draw the form of a link before it is known what is served. */
function drawLinked() {
  const link = readLink(location.hash), known = Object.hasOwn(TASKS, link.task);
  if (known && link.values.size) keepLinked(link.task, link.values, []);
  drawForm(known ? link.task : state.task);
}

/** Open what a link names, as far as it is served, and show a message about the rest. */
function openLink() {
  const link = readLink(location.hash);
  const wrong = [];
  const task = linkedTask(link.task, wrong);
  if (!task) return;
  const heads = headsOf(task);
  if (task === link.task && link.name && !heads.some((head) => head.name === link.name)) {
    wrong.push(`It names the head "${link.name}" for ${task}, which is not served. This is ${heads[0].name} instead.`);
  }
  if (task === link.task && link.values.size) keepLinked(task, link.values, wrong);
  choose(task, link.name);
  tell(wrong.length ? "The link does not fit this service" : "", ...wrong);
}

function linkedTask(task, wrong) {
  const served = Object.keys(TASKS).filter((each) => headsOf(each).length);
  if (!served.length) {
    showProblem(null);
    tell("No head is served that this page can try", "Load a bundle, then reload the page.");
  }
  if (!task || served.includes(task) || !served.length) return task || served[0];
  const reason = Object.hasOwn(TASKS, task) ? "for which no head is served" : "which this page does not have";
  wrong.push(`It names the task "${task}", ${reason}. This is ${TASKS[served[0]].title} instead; choose another tab.`);
  return served[0];
}

function keepLinked(task, values, wrong) {
  const known = [...TASKS[task].fields.map(([name]) => name), ...Object.keys(TASKS[task].parameters)];
  const strange = [...values.keys()].filter((name) => !known.includes(name));
  if (strange.length) wrong.push(`It sets ${strange.map((name) => `"${name}"`).join(", ")}, which ${task} does not have. Ignored.`);
  state.kept[task] = Object.fromEntries([...values].filter(([name]) => known.includes(name)));
}

function copyLink() {
  writeLink();
  const note = state.cut ? "The link opens this head without the text. Send the text in a file." : "";
  if (note) tell("The text is too long for a link", note);
  copy($("copy-link"), location.href, () => `The link is in the address bar. Copy it from there. ${note}`);
}
