"""Explains an answer by the influence of each word, measured by leaving it out (Li et al., 2016, "erasure").

The influence of a word is the score of the answer minus the score of the same answer to the text without this word. A
positive influence speaks for the answer. Words are those of the tokenizer: they end at whitespace, and each punctuation
mark is a word; in scripts without spaces each token is one. Each occurrence of a repeated word is left out separately.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from pydantic import with_config
from typing_extensions import TypedDict

from models.classification import ScoredLabel
from models.errors import InputError
from models.pieces import BLANKS, NO_WORD, Pieces, Span
from models.qa import NO_ANSWER, QuestionAnswering
from models.row import Encoded
from models.scripts import word_numbers
from models.task import ANSWER, Logits, Strict, Task, TaskName

EXPLAINED: tuple[TaskName, ...] = ("classify", "pair", "qa")
"""Tasks whose answer is one label or one span, which can be scored again without a word."""
MAX_WORDS = 256
MAX_CHARACTERS = 4_000_000
"""Maximum characters of all texts without a word; more would take seconds to tokenize."""
CONTEXT = 1
"""The index of the context among the texts of a qa input."""

AnyTask = Task[Any, Any, Any, Any]
Texts = tuple[str, ...]


@with_config(ANSWER)
class Influence(TypedDict):
    """A word of the input, and its effect on the answer."""

    field: Literal["inputs", "text", "text_pair", "question", "context"]
    """The text that holds it; `inputs` where an input is a single text."""
    word: str
    """The characters of that text from `start` to `end`."""
    start: int
    """Index of its first character in that text."""
    end: int
    """Index after its last character."""
    influence: float
    """The score of the answer minus the score of the same answer without this word; positive if the word speaks for
    the answer."""


@with_config(ANSWER)
class Explanation(TypedDict):
    """An answer, and the words of the input that speak for it or against it."""

    label: str
    """The best label; for qa, the text of the answer."""
    score: float
    """Its score, as on the head's own route."""
    words: list[Influence]
    """The words in the order of the text. If a text has only one word, this cannot be left out and is not listed."""


class Word(NamedTuple):
    """A word of one text of an input."""

    field: int
    """The index of its text within the input."""
    span: Span
    cut: Span
    """The characters that are left out: the word, and one space beside it."""


@dataclass(frozen=True, slots=True)
class OccludedSource:
    """The input as a whole, and once without each word."""

    texts: Texts
    words: list[Word]
    parts: list[Encoded[Any]]
    """The whole input, then the input without each word."""


class Occlusion(Task[Any, Any, OccludedSource, Explanation]):
    """Explain an answer by the influence of each word.

    It takes the inputs and parameters of a task in EXPLAINED. The parameters that limit labels or spans (`top_k`,
    `threshold`) have no effect: the best one is explained.
    """

    repeats = True

    def __init__(self, task: AnyTask, max_words: int = MAX_WORDS) -> None:
        """Raise InputError for a task whose answers have no single score."""
        if task.head.task not in EXPLAINED:
            raise InputError("head", obstacle(task.head.task))
        self._task, self._max_words = task, max_words
        self.inputs, self.parameters = task.inputs, task.parameters
        super().__init__(task.tokenizer, task.head, task.max_length)

    def parse_parameters(self, given: Mapping[str, Any]) -> Any:
        return self._task.parse_parameters(given)

    def encode(self, inputs: Any, parameters: Any) -> Encoded[OccludedSource]:
        """Make the rows of the whole input and of all copies without a word; `truncated` is that of the whole input."""
        parts = [self._task.encode(inputs, parameters)]
        texts, words = _texts(inputs), self._words(inputs)
        fits = _cutting(parameters)
        parts += [self._task.encode(_without(inputs, texts, word), fits) for word in words]
        rows = [row for part in parts for row in part.rows]
        return Encoded(rows, OccludedSource(texts, words, parts), parts[0].truncated)

    def decode(self, encoded: Encoded[OccludedSource], logits: Logits, parameters: Any) -> Explanation:
        source = encoded.source
        ends = np.cumsum([sum(len(row.positions) for row in part.rows) for part in source.parts])
        answered = list(zip(source.parts, np.split(logits, ends[:-1]), strict=True))
        rate = self._rate_span if isinstance(self._task, QuestionAnswering) else self._rate_label
        label, score, others = rate(answered, source.words, parameters)
        names = _names(self.inputs)
        words = [
            _influence(names[word.field], source.texts[word.field], word.span, score - other)
            for word, other in zip(source.words, others, strict=True)
        ]
        return {"label": label, "score": score, "words": words}

    def _words(self, inputs: Any) -> list[Word]:
        """Return the words that can be left out; raise InputError if there are too many."""
        words = list[Word]()
        for number, (text, place) in enumerate(zip(_texts(inputs), _places(inputs), strict=True)):
            found = word_spans(text, self.tokenizer.encode(text, place))
            words += [Word(number, span, left_out(text, span)) for span in found if len(found) > 1]
        if len(words) > self._max_words:
            sentence = f"has {len(words)} words, but at most {self._max_words} can be left out in turn; shorten it"
            raise InputError("inputs", sentence)
        characters = len(words) * sum(map(len, _texts(inputs)))
        if characters > MAX_CHARACTERS:
            sentence = f"has {len(words)} long words: the texts without one of them have {characters} characters"
            raise InputError("inputs", f"{sentence}, but at most {MAX_CHARACTERS} are read; shorten it")
        return words

    def _rate_label(
        self, answered: list[tuple[Encoded[Any], Logits]], words: list[Word], parameters: Any
    ) -> tuple[str, float, list[float]]:
        """Return the best label, its score, and its score without each word."""
        every = parameters.model_copy(update={"top_k": None, "threshold": None})
        whole, *others = (cast(list[ScoredLabel], self._task.decode(*each, every)) for each in answered)
        label, score = whole[0]["label"], whole[0]["score"]
        return label, score, [_score(other, label) for other in others]

    def _rate_span(
        self, answered: list[tuple[Encoded[Any], Logits]], words: list[Word], parameters: Any
    ) -> tuple[str, float, list[float]]:
        """Return the best answer, its score, and the score of the same span in the context without each word.

        If the word is before the answer, the span is shifted by the characters that are left out. The score is the one
        of qa for this span, whatever `top_k` is. It is 0 if qa cannot give this span: a part of it was left out, or it
        no longer ends at a word. "No answer" has its own score.
        """
        task = cast(QuestionAnswering, self._task)
        best: Any = task.decode(*answered[0], parameters.model_copy(update={"top_k": 1}))
        place = best["start"], best["end"]
        scores = [0.0] * len(words)
        for number, (word, (part, logits)) in enumerate(zip(words, answered[1:], strict=True)):
            if moved := shifted(place, word):
                scores[number] = task.score(part, logits, parameters, moved)
        return best["answer"], best["score"], scores


def obstacle(task: TaskName) -> str:
    """Return why the answers of a task cannot be explained."""
    *most, last = (f"/{name}" for name in EXPLAINED)
    needed = f"{', '.join(most)} or {last}"
    return f"is for /{task}, whose answers have no single score to explain; choose a head for {needed}"


def word_spans(text: str, pieces: Pieces) -> list[Span]:
    """Return the start and end of each word of a text from its pieces; words do not overlap."""
    spans, last = list[Span](), NO_WORD
    for number, (start, end) in zip(word_numbers(text, pieces).tolist(), pieces.offsets.tolist(), strict=True):
        if number == NO_WORD or start == end:
            continue
        if spans and (number == last or start < spans[-1][1]):
            spans[-1] = spans[-1][0], max(end, spans[-1][1])
        else:
            spans.append((start, end))
        last = number
    return spans


def left_out(text: str, span: Span) -> Span:
    """Return a word's span with one space beside it, unless its neighbors would then become one word."""
    start, end = span
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    if after and after in BLANKS and not before.isalnum():
        return start, end + 1
    if before and before in BLANKS and not after.isalnum():
        return start - 1, end
    return span


def shifted(place: Span, word: Word) -> Span | None:
    """Return the span of an answer after a word was left out; None if the word overlaps it."""
    first, last = word.cut
    if word.field != CONTEXT or place == NO_ANSWER or first >= place[1]:
        return place
    if last > place[0]:
        return None
    return place[0] - (last - first), place[1] - (last - first)


def _influence(field: Any, text: str, span: Span, influence: float) -> Influence:
    start, end = span
    return {"field": field, "word": text[start:end], "start": start, "end": end, "influence": influence}


def _score(answer: Sequence[ScoredLabel], label: str) -> float:
    return next(each["score"] for each in answer if each["label"] == label)


def _names(kind: Any) -> list[str]:
    """Return the field names of an input's texts."""
    return list(getattr(kind, "model_fields", ())) or ["inputs"]


def _texts(inputs: Any) -> Texts:
    return (inputs,) if isinstance(inputs, str) else tuple(getattr(inputs, name) for name in _names(type(inputs)))


def _places(inputs: Any) -> list[str]:
    """Return the names of an input's texts in errors."""
    return ["inputs"] if isinstance(inputs, str) else [f"inputs.{name}" for name in _names(type(inputs))]


def _without(inputs: Any, texts: Texts, word: Word) -> Any:
    start, end = word.cut
    text = texts[word.field][:start] + texts[word.field][end:]
    return text if isinstance(inputs, str) else inputs.model_copy(update={_names(type(inputs))[word.field]: text})


def _cutting(parameters: Strict) -> Strict:
    """Return the parameters, but cutting a text that is too long instead of refusing it.

    Leaving out a punctuation mark can join two words, which may then have more tokens than before. The whole input has
    already been accepted.
    """
    refuses = getattr(parameters, "truncation", None) in ("error", False)
    return parameters.model_copy(update={"truncation": "right"}) if refuses else parameters
