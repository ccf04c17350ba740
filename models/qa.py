"""Question answering: finds the span of a context that answers a question, or that there is none.

Scores follow the question-answering pipeline of transformers ≤ 5.2: one softmax over the starts and one over the ends,
both including [CLS]; a span scores start × end. Several windows share these two softmaxes, so their spans compete. A
token counts as a start only in the window where it has most context (Google's run_squad.py), and as an end in every
window. [CLS] counts once, with the logits of the window that is least sure of "no answer". Answers are distinct slices
of the context: whole words if blanks separate words and `align_to_words` is true, otherwise exact tokens.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, with_config
from typing_extensions import TypedDict

from models.errors import InputError
from models.pieces import Pieces
from models.row import Encoded, Row
from models.scripts import changes, word_numbers
from models.task import ANSWER, Logits, Scores, Strict, Task
from models.windows import owners, slide

MAX_SPANS = 4_000_000
"""Maximum number of spans that are scored for one context, 8 bytes each."""


USUAL_LENGTH = 384
"""Tokens of a row in Google's and Hugging Face's training of this task."""
NO_ANSWER = (0, 0)
"""Start and end of the answer ""."""


class QuestionInput(Strict):
    """A question and the text to answer it from."""

    question: str
    """The question."""
    context: str
    """The text that holds the answer."""


class QuestionParameters(Strict):
    """Parameters of qa, with the defaults of transformers."""

    top_k: int = Field(default=1, ge=1, le=1000)
    """Number of answers to return, best first; with 1, a single answer is returned instead of a list."""
    max_answer_len: int = Field(default=15, ge=1)
    """Maximum tokens of an answer."""
    doc_stride: int | None = Field(default=None, ge=0)
    """Tokens that two neighboring windows share (not the step between them, which Google gave this name); by default
    half of `max_seq_len`, at most 128."""
    max_seq_len: int | None = Field(default=None, ge=1)
    """Tokens of a window, with the question and special tokens; by default as many as in training, 384 if unknown."""
    max_question_len: int = Field(default=64, ge=1)
    """Maximum tokens of the question; the rest of it is cut off."""
    handle_impossible_answer: bool = False
    """Whether the answer may be "", which means that the context does not answer the question."""
    no_answer_threshold: float = 0.0
    """The answer is "" if the logit of "no answer" exceeds that of the best span by more than this."""
    align_to_words: bool = True
    """Whether to extend answers to whole words; scripts that write no blanks between words are not affected."""


@with_config(ANSWER)
class Answer(TypedDict):
    """A span of the context that answers the question."""

    score: float
    """The probability of the span."""
    start: int
    """Index of its first character in the context."""
    end: int
    """Index after its last character."""
    answer: str
    """The characters of the context from `start` to `end`; "" if there is no answer."""


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """What decode needs to know about a context of T tokens."""

    context: str
    offsets: NDArray[np.int64]
    """(T, 2) start and end (exclusive) of each token, in characters."""
    word_starts: NDArray[np.int64]
    """(T,) start of each token's word, or of the token itself if answers are exact tokens."""
    word_ends: NDArray[np.int64]
    """(T,) end (exclusive) of the same."""
    starts: NDArray[np.int64]
    """First token of each window."""
    owners: NDArray[np.int64]
    """(T,) the window in which a token may start an answer."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The scores of all spans of an input, as logits."""

    spans: Scores
    """(T, max_answer_len) logit of the span from token t to token t + d; −inf if it leaves the window of t."""
    null: float
    """Logit of "no answer": the minimum over the windows, as in run_squad.py."""
    normalizer: float
    """Log-sum-exp over all starts plus log-sum-exp over all ends."""


class QuestionAnswering(Task[QuestionInput, QuestionParameters, QuestionSource, Answer | list[Answer]]):
    """Answer a question from a text."""

    inputs = QuestionInput
    parameters = QuestionParameters

    def encode(self, inputs: QuestionInput, parameters: QuestionParameters) -> Encoded[QuestionSource]:
        question = self.tokenizer.ids(inputs.question, "inputs.question")
        context = self.tokenizer.encode(inputs.context, "inputs.context")
        kept = question[: parameters.max_question_len]
        starts, room = self._windows(len(kept), len(context), parameters)
        first = self.tokenizer.second_column(len(kept))
        rows = []
        for start in starts.tolist():
            ids = context.ids[start : start + room]
            rows.append(self.tokenizer.pair_row(kept, ids, [0, *range(first, first + len(ids))]))
        source = _source(inputs.context, context, starts, room, parameters.align_to_words)
        return Encoded(rows, source, len(question) - len(kept))

    def encode_training(
        self, inputs: QuestionInput, answer: tuple[int, int] | None, parameters: QuestionParameters
    ) -> list[tuple[Row, int, int]]:
        """Return each window with the indices INTO ITS POSITIONS of the first and the last token of the answer.

        `answer` is its start and end in characters of the context, None if there is none. Both indices are 0 ([CLS])
        in a window that does not contain the complete answer.
        """
        encoded = self.encode(inputs, parameters)
        if answer is None:
            return [(row, 0, 0) for row in encoded.rows]
        first, last = _answer_tokens(encoded.source, answer)
        examples = []
        for row, start in zip(encoded.rows, encoded.source.starts.tolist(), strict=True):
            inside = start <= first and last < start + len(row.positions) - 1
            examples.append((row, first - start + 1, last - start + 1) if inside else (row, 0, 0))
        return examples

    def decode(
        self, encoded: Encoded[QuestionSource], logits: Logits, parameters: QuestionParameters
    ) -> Answer | list[Answer]:
        source = encoded.source
        scaled = _candidates(source, logits, self.head.temperature, parameters.max_answer_len)
        answers = _best_spans(source, scaled, parameters.top_k)
        if parameters.handle_impossible_answer:
            margin = self.no_answer_margin(encoded, logits, parameters)
            null: Answer = {"score": math.exp(scaled.null - scaled.normalizer), "start": 0, "end": 0, "answer": ""}
            answers = _insert_null(answers, null, margin > parameters.no_answer_threshold)
        return answers[0] if parameters.top_k == 1 else answers[: parameters.top_k]

    def score(
        self,
        encoded: Encoded[QuestionSource],
        logits: Logits,
        parameters: QuestionParameters,
        place: tuple[int, int],
    ) -> float:
        """Return the score that `decode` gives to the answer with this start and end in the context.

        NO_ANSWER stands for "". A span that cannot be an answer scores 0.
        """
        source = encoded.source
        scaled = _candidates(source, logits, self.head.temperature, parameters.max_answer_len)
        if place == NO_ANSWER:
            return math.exp(scaled.null - scaled.normalizer)
        firsts = np.flatnonzero(source.word_starts == place[0])
        lasts = firsts[:, None] + np.arange(scaled.spans.shape[1])
        ends = np.append(source.word_ends, np.full(lasts.shape[1], -1))[lasts]  # no span ends after the last token
        best = scaled.spans[firsts][ends == place[1]].max(initial=-np.inf)
        return math.exp(best - scaled.normalizer)

    def no_answer_margin(
        self, encoded: Encoded[QuestionSource], logits: Logits, parameters: QuestionParameters
    ) -> float:
        """Return the logit of "no answer" minus that of the best span, to compare with `no_answer_threshold`."""
        candidates = _candidates(encoded.source, logits, 1.0, parameters.max_answer_len)
        return float(candidates.null - candidates.spans.max())

    def _windows(self, question: int, context: int, parameters: QuestionParameters) -> tuple[NDArray[np.int64], int]:
        length = parameters.max_seq_len or min(self.max_length, self.head.trained.max_length or USUAL_LENGTH)
        specials = self.tokenizer.layout.specials
        room = length - question - specials
        if length > self.max_length:
            raise InputError(
                "parameters.max_seq_len", f"is {length}, but this model takes {self.max_length}; pass less"
            )
        if room < 1:
            raise InputError(
                "parameters.max_seq_len",
                f"is {length}, which leaves no room for the context beside {question} tokens of the question and "
                f"{specials} special ones; shorten the question, lower max_question_len, or raise max_seq_len",
            )
        if parameters.max_answer_len > length:
            raise InputError(
                "parameters.max_answer_len", f"is {parameters.max_answer_len}, but max_seq_len is {length}; pass less"
            )
        if context * min(parameters.max_answer_len, room) > MAX_SPANS:
            raise InputError(
                "parameters.max_answer_len",
                f"is {parameters.max_answer_len}, which makes more than {MAX_SPANS} spans of a context of {context} "
                f"tokens; pass {MAX_SPANS // context} or less, or ask of its parts",
            )
        return slide(context, room, _stride(parameters, length, room), "inputs.context"), room


def _stride(parameters: QuestionParameters, length: int, room: int) -> int:
    if parameters.doc_stride is None:
        return min(length // 2, 128, room // 2)
    if parameters.doc_stride >= room:
        raise InputError(
            "parameters.doc_stride",
            f"is {parameters.doc_stride}, but beside this question a window holds {room} tokens of the context; "
            "pass less, so that windows advance",
        )
    return parameters.doc_stride


def _source(text: str, context: Pieces, starts: NDArray[np.int64], room: int, align: bool) -> QuestionSource:
    offsets = context.offsets
    visible = np.flatnonzero(offsets[:, 0] < offsets[:, 1])
    spans = offsets[visible]
    firsts = np.flatnonzero(changes(word_numbers(text, context)[visible] if align else visible))
    counts = np.diff(firsts, append=len(visible))
    begins, ends = np.repeat(spans[firsts, 0], counts), np.repeat(spans[firsts + counts - 1, 1], counts)
    if len(visible) < len(context):  # a token of blanks starts with the next word and ends with the previous one
        tokens = np.arange(len(context))
        begins = np.append(begins, len(text))[np.searchsorted(visible, tokens)]
        ends = np.append(0, ends)[np.searchsorted(visible, tokens, side="right")]
    return QuestionSource(text, offsets, begins, ends, starts, owners(starts, room, len(context)))


def _answer_tokens(source: QuestionSource, answer: tuple[int, int]) -> tuple[int, int]:
    """Return the first and the last token that overlap the answer; raise InputError if there is none."""
    inside = np.flatnonzero((source.offsets[:, 0] < answer[1]) & (source.offsets[:, 1] > answer[0]))
    if not inside.size:
        raise InputError("answer", f"characters {answer[0]} to {answer[1]} of the context hold no token; correct them")
    return int(inside[0]), int(inside[-1])


def _candidates(source: QuestionSource, logits: Logits, temperature: float, max_answer_len: int) -> Candidates:
    # All windows have the same length R (see windows.py): (windows, 1 + R, start and end), [CLS] first.
    by_window = (logits.astype(np.float64) / temperature).reshape(len(source.starts), -1, 2)
    nulls = by_window[:, 0]
    null = nulls[nulls.sum(axis=1).argmin()]
    starts, ends = by_window[:, 1:, 0], by_window[:, 1:, 1]
    room = starts.shape[1]
    reach = min(max_answer_len, room)
    columns = np.arange(len(source.owners)) - source.starts[source.owners]
    own_starts = starts[source.owners, columns]  # (T,)
    padded = np.full((len(ends), room + reach - 1), -np.inf)
    padded[:, :room] = ends
    places = source.owners * padded.shape[1] + columns
    own_ends = padded.ravel()[places[:, None] + np.arange(reach)]  # (T, reach)
    normalizer = _log_sum(own_starts, null[0]) + _log_sum(ends, null[1])
    return Candidates(own_starts[:, None] + own_ends, float(null.sum()), normalizer)


def _log_sum(logits: Scores, null: float) -> float:
    highest = max(float(logits.max()), null)
    return highest + float(np.log(np.exp(logits - highest).sum() + np.exp(null - highest)))


def _best_spans(source: QuestionSource, candidates: Candidates, count: int) -> list[Answer]:
    """Return the best `count` distinct answers; fewer if there are fewer.

    Token spans that extend to the same words get the best of their scores, so a score does not depend on top_k.
    """
    flat = candidates.spans.ravel()
    examined = count
    while True:
        examined = min(examined, flat.size)
        answers = _distinct(source, candidates, _highest(flat, examined))
        if len(answers) >= count or examined == flat.size:
            return answers[:count]
        examined *= 8


def _highest(flat: Scores, count: int) -> NDArray[np.int64]:
    """Return the indices of the `count` highest values, best first; among equals, the lower index first."""
    if count == 1:
        some = np.array([flat.argmax()])
    else:
        some = np.sort(np.argpartition(-flat, count - 1)[:count])
    highest: NDArray[np.int64] = some[np.argsort(-flat[some], kind="stable")]
    return highest[np.isfinite(flat[highest])]


def _distinct(source: QuestionSource, candidates: Candidates, indices: NDArray[np.int64]) -> list[Answer]:
    tokens, more = np.unravel_index(indices, candidates.spans.shape)
    spans = zip(source.word_starts[tokens].tolist(), source.word_ends[tokens + more].tolist(), strict=True)
    scores = np.exp(candidates.spans[tokens, more] - candidates.normalizer).tolist()
    answers: dict[tuple[int, int], Answer] = {}
    for (start, end), score in zip(spans, scores, strict=True):
        answer: Answer = {"score": score, "start": start, "end": end, "answer": source.context[start:end]}
        if start < end:  # otherwise it is only blanks
            answers.setdefault((start, end), answer)
    return list(answers.values())


def _insert_null(answers: list[Answer], null: Answer, wins: bool) -> list[Answer]:
    """Insert "no answer": first if it wins, otherwise by its score, but after the best span."""
    place = 0 if wins else max(1, sum(answer["score"] >= null["score"] for answer in answers))
    return [*answers[:place], null, *answers[place:]]
