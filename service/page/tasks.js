"use strict";
// What the page knows about each task: its purpose, its fields, its examples, and the parameters that it offers.
// A field of the kind "list" is a required parameter. `compose` makes the body if it is not { inputs, parameters }.

const LABEL_PARAMETERS = {
  top_k: "number", function_to_apply: ["softmax", "sigmoid", "none"],
  truncation: ["right", "left", "windows", "error"], window_scores: ["maximum", "mean"],
};
const TASKS = {
  "classify": {
    title: "Classify", about: "Which label fits a text: its sentiment, its topic, its intent.", fields: [["text", "Text", ""]], parameters: LABEL_PARAMETERS,
    examples: [
      ["The food was cold, yet the staff made up for it with a lovely evening."],
      ["It is neither funny nor moving, and it goes on for two hours."],
      ["What is the exchange rate between dollars and yen?"],
    ],
  },
  "pair": {
    title: "Pair", about: "How two texts relate: does the second follow from the first, or contradict it?", fields: [["text", "Text", ""], ["text_pair", "Second text", ""]], parameters: LABEL_PARAMETERS,
    examples: [
      ["A man is playing a guitar on the street.", "Someone is making music."],
      ["The museum opens at nine every day.", "The museum is closed on Mondays."],
      ["She bought a house.", "The house has a garden."],
    ],
  },
  "fill-mask": {
    title: "Fill mask", about: "Which word fits in place of [MASK].", fields: [["text", "Text with [MASK]", ""]], parameters: { top_k: "number", targets: "list" },
    examples: [
      ["It is one of the largest cities in the [MASK]."],
      ["The cat sat on the [MASK] and looked out of the [MASK]."],
      ["The film was [MASK] by critics."],
    ],
  },
  "tag": {
    title: "Tag", about: "Which words name a person, a place, an organization, or what else the head was trained to find.", fields: [["text", "Text", ""]],
    parameters: {
      aggregation_strategy: ["simple", "first", "average", "max", "none"],
      max_seq_len: "number", stride: "number", ignore_labels: "list",
    },
    examples: [
      ["Clara Schumann was born in Leipzig and later moved to Frankfurt."],
      ["Tim Cook of Apple met Angela Merkel in Berlin."],
      ["The United Nations has its seat in New York."],
    ],
  },
  "qa": {
    title: "Ask", about: "The passage of a text that answers a question.", fields: [["question", "Question", "line"], ["context", "Context", "tall"]],
    parameters: {
      top_k: "number", max_answer_len: "number", handle_impossible_answer: "boolean",
      max_seq_len: "number", doc_stride: "number", max_question_len: "number",
    },
    examples: [
      ["Where did the expedition spend the winter?", "The ship left Bergen in June with twenty men. After weeks of fog it reached the ice, where it was beset. The expedition spent the winter in a bay on the east coast of Greenland, and sailed home the following August."],
      ["How tall is the tower?", "The tower is 324 metres tall, about the height of a building of 81 storeys. Its base is square, measuring 125 metres on each side."],
      ["Who painted the ceiling?", "The library was built in 1743. It holds forty thousand volumes, among them the chronicle of the abbey."],
    ],
  },
  "zero-shot": {
    title: "Zero-shot", about: "Which of your own labels fits a text. The head was not trained on them: it tests whether the text entails each.",
    fields: [["text", "Text", ""], ["candidate_labels", "Labels, separated by commas", "list"]],
    parameters: { hypothesis_template: "text", multi_label: "boolean" },
    examples: [
      ["The match ended in a draw after extra time.", "sport, politics, cooking"],
      ["Simmer the sauce for ten minutes, then add the basil.", "sport, politics, cooking"],
    ],
  },
  "rerank": {
    title: "Rerank", about: "Which texts fit a query best.",
    fields: [["query", "Query", "line"], ["texts", "Texts, one per line", "tall"]],
    parameters: { raw_scores: "boolean" },
    compose: ({ query, texts }, parameters) => ({ query, texts: texts.split("\n").filter((line) => line.trim()), ...parameters }),
    examples: [
      ["Where is Berlin?", "Berlin is the capital of Germany.\nCats sleep most of the day.\nGermany has sixteen states."],
      ["How do I reset my password?", "Choose “Forgot password” on the sign-in page.\nOur office is closed on Sundays.\nPasswords need twelve characters."],
    ],
  },
};
