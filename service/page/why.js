// Why: shows how much the score of the answer falls when a word is left out.

const MAX_REASONS = 12; // words in the table

const whyButton = (asked) => (asked.task === asked.head.task && answersOn(asked.head, "explain") ? [button("Why?", () => explain(asked))] : []);

async function explain(asked) {
  const turn = state.turn;
  $("why").focus(); // the button disappears
  $("why").replaceChildren(make("p", { class: "empty", textContent: "Reading the text again without each of its words …" }));
  const { answer, problem } = await ask("explain/" + encodeURIComponent(asked.head.name), { body: asked.body });
  if (turn !== state.turn) return;
  try {
    $("why").replaceChildren(...(problem ? [notice("bad", problem.title, problem.text), ...whyButton(asked)] : drawReasons(answer, asked)));
  } catch {
    $("why").replaceChildren(notice("bad", "This page does not understand the explanation", "Reload the page: the service may have a new version."));
  }
  say(problem ? `${problem.title}. ${problem.text}` : $("why").textContent);
}

function drawReasons({ label, score, words }, { body, head }) {
  const most = Math.max(1e-9, ...words.map((word) => Math.abs(word.influence)));
  const fields = typeof body.inputs === "string" ? [["", body.inputs]] : Object.entries(body.inputs);
  const passages = fields.map(([name, text]) => shaded(name, text, words.filter((word) => !name || word.field === name), most));
  const ranked = [...words].sort((a, b) => Math.abs(b.influence) - Math.abs(a.influence)).slice(0, MAX_REASONS);
  const rows = ranked.map((word) => [word.word, word.influence < 0 ? "against" : "for", [signed(word.influence), "number"]]);
  const about = "Influence is how much the score falls without the word. A solid line speaks for the answer, a dashed one against it.";
  return [
    make("h3", { textContent: `Why “${label || "no answer"}” (${scoreWriter(body, head)(score)})?` }),
    ...passages, make("p", { class: "about", textContent: about }), table(["Word", "Speaks", ["Influence", "number"]], rows),
  ];
}

const signed = (influence) => (influence < 0 ? "−" : "+") + Math.abs(influence).toFixed(3);

function shaded(name, text, words, most) {
  const spans = words.map((word) => ({ ...word, hue: word.influence < 0 ? 1 : 0, title: `${word.word}: ${signed(word.influence)}` }));
  const passage = passageWith(text, spans, name ? `Influence in ${name}` : "Influence of each word");
  const strengths = spans.filter((span) => span.end > span.start).sort((a, b) => a.start - b.start);
  [...passage.querySelectorAll("mark")].forEach((mark, index) => {
    mark.classList.add("reason", strengths[index].influence < 0 ? "against" : "for");
    mark.style.setProperty("--strength", Math.sqrt(Math.abs(strengths[index].influence) / most).toFixed(3)); // weak words stay visible
  });
  return passage;
}
