"""One label for a text (classify), or for how two texts relate (pair): the head reads [CLS].

Answers are those of Hugging Face's text-classification: all labels, or the best `top_k`, best first.
"""

from typing import Literal, TypedDict

import numpy as np
from pydantic import Field

from models.errors import InputError
from models.row import Encoded
from models.task import HeadSpec, Logits, Strict, Task, softmax

Truncation = Literal["right", "left", "error"]


class ClassificationParameters(Strict):
    """Parameters of classify and pair."""

    top_k: int | None = Field(default=None, ge=1)
    """How many labels to return, all by default."""
    function_to_apply: Literal["softmax", "sigmoid", "none"] = "softmax"
    truncation: Truncation = "right"
    """Which end of a text that is too long is cut, or whether it is refused."""


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
        room = self.max_length - 2
        if len(ids) > room:
            _check_truncation(parameters.truncation, "inputs", len(ids), room)
        kept = _cut(ids, room, parameters.truncation)
        return Encoded([self.tokenizer.single_row(kept, [0])], None, len(ids) - len(kept))

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits[0], parameters)


class Pair(Task[PairInput, ClassificationParameters, None, list[ScoredLabel]]):
    """Two texts → labels of their relation."""

    inputs = PairInput
    parameters = ClassificationParameters

    def encode(self, inputs: PairInput, parameters: ClassificationParameters) -> Encoded[None]:
        _check_top_k(self.head, parameters)
        first = self.tokenizer.ids(inputs.text, "inputs.text")
        second = self.tokenizer.ids(inputs.text_pair, "inputs.text_pair")
        room = self.max_length - 3
        total = len(first) + len(second)
        if total > room:
            _check_truncation(parameters.truncation, "inputs", total, room)
        first_room, second_room = share_room(len(first), len(second), room)
        first = _cut(first, first_room, parameters.truncation)
        second = _cut(second, second_room, parameters.truncation)
        return Encoded([self.tokenizer.pair_row(first, second, [0])], None, total - len(first) - len(second))

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits[0], parameters)


def rank_labels(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
    """Score each label from its logit [labels], and return the best `top_k`, best first."""
    scores = logits.astype(np.float64) / head.temperature
    if parameters.function_to_apply == "softmax":
        scores = softmax(logits, head.temperature)
    elif parameters.function_to_apply == "sigmoid":
        scores = 0.5 * (1 + np.tanh(0.5 * scores))  # the logistic function, in the form that cannot overflow
    best = np.argsort(-scores, kind="stable")[: parameters.top_k]
    return [{"label": head.labels[i], "score": float(scores[i])} for i in best]


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
            'shorten it, or set truncation to "right" or "left"',
        )


def _check_top_k(head: HeadSpec, parameters: ClassificationParameters) -> None:
    count = len(head.labels)
    if parameters.top_k is not None and parameters.top_k > count:
        raise InputError(
            "parameters.top_k", f"is {parameters.top_k}, but this head has {count} labels; pass 1 to {count}"
        )
