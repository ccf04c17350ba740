"""One label for a text (classify), or for how two texts relate (pair): the head reads [CLS].

Answers are those of Hugging Face's text-classification: all labels, or the best `top_k`, best first. A text that is too
long is cut, refused, or read in overlapping windows as long as the rows that the head learned from, whose scores are
put together label by label; of a pair, both texts slide, so that every part of one meets every part of the other.
"""

from collections.abc import Iterable
from itertools import product
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, with_config
from typing_extensions import TypedDict

from models.errors import InputError
from models.row import Encoded, Row
from models.task import ANSWER, HeadSpec, Logits, Scores, Strict, Task, softmax
from models.windows import MOST_WINDOWS, slide, usual_overlap

Truncation = Literal["right", "left", "windows", "error"]
LEAST_ROW = 8
"""Tokens of a row that a client may ask for, special ones included."""


class ClassificationParameters(Strict):
    """Parameters of classify and pair."""

    top_k: int | None = Field(default=None, ge=1)
    """Number of labels to return, best first; all by default."""
    function_to_apply: Literal["softmax", "sigmoid", "none"] = "softmax"
    """How logits become scores: "softmax" over all labels, "sigmoid" for each label, or "none" for raw logits."""
    truncation: Truncation | bool = "right"
    """What to do with an input that is too long: cut it on the "right" or "left", read it in overlapping "windows", or
    answer 422 ("error"). As in transformers, true means the head's default, and false means "error"."""
    max_length: int | None = Field(default=None, ge=LEAST_ROW)
    """Maximum tokens of a row, special ones included. It can only lower the limit of the model (and of a window): a
    larger number has no effect."""
    window_scores: Literal["maximum", "mean"] = "maximum"
    """How the scores of windows are combined for each label: "maximum" finds what a single part says, "mean" rates the
    whole text."""
    threshold: float | None = None
    """Labels with a lower score are left out; by default all are kept."""


class PairInput(Strict):
    """Two texts whose relation is asked for."""

    text: str
    """The first text, such as a premise."""
    text_pair: str
    """The second text, such as a hypothesis."""


@with_config(ANSWER)
class ScoredLabel(TypedDict):
    """A label and its score."""

    label: str
    """The name of the label."""
    score: float
    """The score of the label: a probability, or the raw logit if `function_to_apply` is "none"."""


class Classify(Task[str, ClassificationParameters, None, list[ScoredLabel]]):
    """Label a text."""

    inputs = str
    parameters = ClassificationParameters

    def encode(self, inputs: str, parameters: ClassificationParameters) -> Encoded[None]:
        _check_top_k(self.head, parameters)
        ids = self.tokenizer.ids(inputs)
        truncation, length = _fit(self, parameters)
        room = length - 2
        if truncation == "windows":
            return Encoded([self.tokenizer.single_row(part, [0]) for part in _parts(ids, room)], None, 0)
        if truncation == "error":
            _check_length(len(ids), room, length < self.max_length)
        kept = _cut(ids, room, truncation)
        return Encoded([self.tokenizer.single_row(kept, [0])], None, len(ids) - len(kept))

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits, parameters)


class Pair(Task[PairInput, ClassificationParameters, None, list[ScoredLabel]]):
    """Label how two texts relate."""

    inputs = PairInput
    parameters = ClassificationParameters

    def encode(self, inputs: PairInput, parameters: ClassificationParameters) -> Encoded[None]:
        _check_top_k(self.head, parameters)
        first = self.tokenizer.ids(inputs.text, "inputs.text")
        second = self.tokenizer.ids(inputs.text_pair, "inputs.text_pair")
        rows, truncated = self.rows(first, second, parameters)
        return Encoded(rows, None, truncated)

    def rows(self, first: list[int], second: list[int], parameters: ClassificationParameters) -> tuple[list[Row], int]:
        """Lay out the ids of two texts as rows; return them and the number of tokens that were cut."""
        truncation, length = _fit(self, parameters)
        room = length - self.tokenizer.layout.specials
        if truncation == "windows":
            return [self.tokenizer.pair_row(one, other, [0]) for one, other in _meetings(first, second, room)], 0
        total = len(first) + len(second)
        if truncation == "error":
            _check_length(total, room, length < self.max_length)
        first_room, second_room = share_room(len(first), len(second), room)
        first, second = _cut(first, first_room, truncation), _cut(second, second_room, truncation)
        return [self.tokenizer.pair_row(first, second, [0])], total - len(first) - len(second)

    def room(self, parameters: ClassificationParameters) -> int:
        """Return the maximum number of tokens of both texts in one row."""
        return _fit(self, parameters).length - self.tokenizer.layout.specials

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits, parameters)


def rank_labels(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
    """Score each label from its logits [windows, labels], and return the best `top_k`, best first."""
    by_window = _scores(head, logits, parameters)
    scores = by_window.max(axis=0) if parameters.window_scores == "maximum" else by_window.mean(axis=0)
    best = np.argsort(-scores, kind="stable")[: parameters.top_k]
    least = -np.inf if parameters.threshold is None else parameters.threshold
    return [{"label": head.labels[i], "score": float(scores[i])} for i in best if scores[i] >= least]


def _scores(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> Scores:
    if parameters.function_to_apply == "softmax":
        return softmax(logits, head.temperature)
    scaled: Scores = logits.astype(np.float64) / head.temperature
    if parameters.function_to_apply == "sigmoid":
        scaled = 0.5 * (1 + np.tanh(0.5 * scaled))  # the logistic function, in the form that cannot overflow
    return scaled


class Fit(NamedTuple):
    """How an input is made to fit the encoder."""

    truncation: Truncation
    length: int
    """Tokens of a row at most, special ones included."""


def _fit(task: Classify | Pair, parameters: ClassificationParameters) -> Fit:
    """Windows are as long as the rows that the head learned from, where that is known."""
    truncation, length = _truncation(task.head, parameters.truncation), task.max_length
    if truncation == "windows":
        length = min(length, max(task.head.trained.max_length or length, LEAST_ROW))
    return Fit(truncation, min(length, parameters.max_length or length))


def _truncation(head: HeadSpec, given: Truncation | bool) -> Truncation:
    """Resolve the values of transformers: true cuts as this head does by default, false refuses."""
    if isinstance(given, str):
        return given
    usual = head.defaults.get("truncation")
    cuts: Truncation = usual if usual in ("left", "windows") else "right"
    return cuts if given else "error"


def _parts(ids: list[int], room: int) -> list[list[int]]:
    """Cut ids into overlapping windows of `room`; raise InputError if they are too many."""
    starts = slide(len(ids), room, usual_overlap(room), "inputs").tolist()
    return [ids[start : start + room] for start in starts]


def _meetings(first: list[int], second: list[int], room: int) -> Iterable[tuple[list[int], list[int]]]:
    """Every window of one text beside every window of the other; the shorter text keeps what it has up to half."""
    first_room, second_room = share_room(len(first), len(second), room)
    parts, others = _parts(first, first_room), _parts(second, second_room)
    if len(parts) * len(others) > MOST_WINDOWS:
        raise InputError(
            "inputs",
            f"has {len(first)} and {len(second)} tokens, which makes {len(parts) * len(others)} pairs of windows, "
            f"expected at most {MOST_WINDOWS}; shorten one of the texts",
        )
    return product(parts, others)


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths that two texts keep when tokens are taken one by one from the longer, from the second if equal.

    `_truncate_seq_pair` of Google's run_classifier.py without its loop: the shorter keeps all it has up to its half.
    """
    kept = min(first, max(room - second, room - room // 2))
    return kept, min(second, room - kept)


def _cut(ids: list[int], room: int, truncation: Truncation) -> list[int]:
    return ids[max(0, len(ids) - room) :] if truncation == "left" else ids[:room]


def _check_length(length: int, room: int, lowered: bool) -> None:
    if length > room:
        limit, remedy = ("max_length leaves", "raise it") if lowered else ("this model takes", "shorten it")
        raise InputError(
            "inputs",
            f"has {length} tokens, but {limit} {room} beside the special ones; "
            f'{remedy}, or set truncation to "windows", "right" or "left"',
        )


def _check_top_k(head: HeadSpec, parameters: ClassificationParameters) -> None:
    count = len(head.labels)
    if parameters.top_k is not None and parameters.top_k > count:
        raise InputError(
            "parameters.top_k", f"is {parameters.top_k}, but this head has {count} labels; pass 1 to {count}"
        )
