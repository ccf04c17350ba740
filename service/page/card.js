// The card of a head: its description from GET /heads.

function drawCard(head) {
  $("card").replaceChildren(...(head ? cardLines(head).map(([name, ...values]) => cardLine(name, values)) : []));
}

function cardLines(head) {
  const { data, examples, ...figures } = head.metrics;
  return [
    ["Routes", ...head.routes.map((each) => "POST " + each)],
    ...(head.labels.length ? [["Labels", head.labels.join(", ")]] : []),
    ["Figures", ...(Object.keys(figures).length ? Object.entries(figures).map(figure) : ["none were measured"])],
    ["Data", data ? `${data}${examples ? `, ${examples} examples` : ""}` : "not stated"],
    ["Limits", `${head.limits.max_length} tokens per row`, `${head.limits.max_characters} characters per text`, `${head.limits.max_items} inputs per request`],
    ["Bundle", `${head.bundle.name}/${head.bundle.version}, ${head.precision} on ${head.provider}`, `sha256 ${head.sha256}`],
  ];
}

/** Return a figure as text; one with several parts, such as one per label, as JSON. */
function figure([name, value]) {
  const shown = typeof value === "number" ? +value.toFixed(4) : typeof value === "string" ? value : JSON.stringify(value);
  return `${name.replaceAll("_", " ")}: ${shown}`;
}

const cardLine = (name, values) => make("div", {}, make("dt", { textContent: name }), ...values.map((value) => make("dd", { textContent: value })));
