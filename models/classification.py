"""One label for a text (classify), or for how two texts relate (pair): the head reads [CLS].

Answers are those of Hugging Face's text-classification: all labels, or the best `top_k`, best first. A text that is too
long is cut, refused, or read in overlapping windows as long as the rows that the head learned from, whose scores are
put together label by label; of a pair, both texts slide, so that every part of one meets every part of the other.
"""

from collections.abc import Iterable
from itertools import product
from typing import Literal

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from models.errors import InputError
from models.row import Encoded
from models.task import HeadSpec, Logits, Scores, Strict, Task, softmax
from models.windows import MOST_WINDOWS, slide, usual_overlap

Truncation = Literal["right", "left", "windows", "error"]
LEAST_ROW = 8
"""Tokens of a window, special ones included."""


class ClassificationParameters(Strict):
    """Parameters of classify and pair."""

    top_k: int | None = Field(default=None, ge=1)
    """How many labels to return, all by default."""
    function_to_apply: Literal["softmax", "sigmoid", "none"] = "softmax"
    truncation: Truncation = "right"
    """Which end of a text that is too long is cut, or whether it is read in windows, or refused."""
    window_scores: Literal["maximum", "mean"] = "maximum"
    """How the scores of windows make one score for each label: "maximum" finds what one part says, "mean" the tenor."""


class PairInput(Strict):
    """Two texts whose relation is asked for."""

    text: str
    text_pair: str


class ScoredLabel(TypedDict):
    label: str
    score: float


class Classify(Task[str, ClassificationParameters, None, list[ScoredLabel]]):
    """text → labels."""

    inputs = str
    parameters = ClassificationParameters

    def encode(self, inputs: str, parameters: ClassificationParameters) -> Encoded[None]:
        _check_top_k(self.head, parameters)
        ids = self.tokenizer.ids(inputs)
        if parameters.truncation == "windows":
            parts = _parts(ids, _row_length(self.head, self.max_length) - 2)
            return Encoded([self.tokenizer.single_row(part, [0]) for part in parts], None, 0)
        room = self.max_length - 2
        if len(ids) > room:
            _check_truncation(parameters.truncation, "inputs", len(ids), room)
        kept = _cut(ids, room, parameters.truncation)
        return Encoded([self.tokenizer.single_row(kept, [0])], None, len(ids) - len(kept))

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits, parameters)


class Pair(Task[PairInput, ClassificationParameters, None, list[ScoredLabel]]):
    """Two texts → labels of their relation."""

    inputs = PairInput
    parameters = ClassificationParameters

    def encode(self, inputs: PairInput, parameters: ClassificationParameters) -> Encoded[None]:
        _check_top_k(self.head, parameters)
        first = self.tokenizer.ids(inputs.text, "inputs.text")
        second = self.tokenizer.ids(inputs.text_pair, "inputs.text_pair")
        if parameters.truncation == "windows":
            rows = [self.tokenizer.pair_row(one, other, [0]) for one, other in self._meetings(first, second)]
            return Encoded(rows, None, 0)
        room = self.max_length - 3
        total = len(first) + len(second)
        if total > room:
            _check_truncation(parameters.truncation, "inputs", total, room)
        first_room, second_room = share_room(len(first), len(second), room)
        first = _cut(first, first_room, parameters.truncation)
        second = _cut(second, second_room, parameters.truncation)
        return Encoded([self.tokenizer.pair_row(first, second, [0])], None, total - len(first) - len(second))

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits, parameters)

    def _meetings(self, first: list[int], second: list[int]) -> Iterable[tuple[list[int], list[int]]]:
        """Every window of one text beside every window of the other; the shorter text keeps what it has up to half."""
        room = _row_length(self.head, self.max_length) - 3
        first_room, second_room = share_room(len(first), len(second), room)
        parts, others = _parts(first, first_room), _parts(second, second_room)
        if len(parts) * len(others) > MOST_WINDOWS:
            raise InputError(
                "inputs",
                f"has {len(first)} and {len(second)} tokens, which makes {len(parts) * len(others)} pairs of windows, "
                f"expected at most {MOST_WINDOWS}; shorten one of the texts",
            )
        return product(parts, others)


def rank_labels(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
    """Score each label from its logits [windows, labels], and return the best `top_k`, best first."""
    by_window = _scores(head, logits, parameters)
    scores = by_window.max(axis=0) if parameters.window_scores == "maximum" else by_window.mean(axis=0)
    best = np.argsort(-scores, kind="stable")[: parameters.top_k]
    return [{"label": head.labels[i], "score": float(scores[i])} for i in best]


def _scores(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> Scores:
    if parameters.function_to_apply == "softmax":
        return softmax(logits, head.temperature)
    scaled: Scores = logits.astype(np.float64) / head.temperature
    if parameters.function_to_apply == "sigmoid":
        scaled = 0.5 * (1 + np.tanh(0.5 * scaled))  # the logistic function, in the form that cannot overflow
    return scaled


def _row_length(head: HeadSpec, max_length: int) -> int:
    """Tokens of a window: of the rows that the head learned from, where that is known."""
    return min(max_length, max(head.trained.max_length or max_length, LEAST_ROW))


def _parts(ids: list[int], room: int) -> list[list[int]]:
    """Cut ids into overlapping windows of `room`; raise InputError if they are too many."""
    starts = slide(len(ids), room, usual_overlap(room), "inputs").tolist()
    return [ids[start : start + room] for start in starts]


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths that two texts keep when tokens are taken one by one from the longer, from the second if equal.

    `_truncate_seq_pair` of Google's run_classifier.py without its loop: the shorter keeps all it has up to its half.
    """
    kept = min(first, max(room - second, room - room // 2))
    return kept, min(second, room - kept)


def _cut(ids: list[int], room: int, truncation: Truncation) -> list[int]:
    return ids[max(0, len(ids) - room) :] if truncation == "left" else ids[:room]


def _check_truncation(truncation: Truncation, field: str, length: int, room: int) -> None:
    if truncation == "error":
        raise InputError(
            field,
            f"has {length} tokens, but this model takes {room} beside the special ones; "
            'shorten it, or set truncation to "windows", "right" or "left"',
        )


def _check_top_k(head: HeadSpec, parameters: ClassificationParameters) -> None:
    count = len(head.labels)
    if parameters.top_k is not None and parameters.top_k > count:
        raise InputError(
            "parameters.top_k", f"is {parameters.top_k}, but this head has {count} labels; pass 1 to {count}"
        )
