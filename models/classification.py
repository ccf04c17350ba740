"""One label for a text (classify), or for how two texts relate (pair): the head reads [CLS].

Answers are those of Hugging Face's text-classification: all labels, or the best `top_k`, best first. A text that is too
long is cut, refused, or read in overlapping windows of the same length as the training rows, whose scores are combined
label by label. For a pair, both texts are divided into windows, and every window of one is read with every window of
the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
from pydantic import Discriminator, Field, Tag, with_config
from typing_extensions import TypedDict

from models.errors import BundleError, InputError
from models.row import Encoded, Row
from models.task import ANSWER, Function, HeadSpec, Logits, Scores, Strict, Task, sigmoid, softmax
from models.windows import MAX_WINDOWS, slide, usual_overlap

Truncation = Literal["right", "left", "windows", "error"]
MIN_ROW = 8
"""Smallest `max_length` that a client may set, in tokens, special ones included."""
Threshold = Annotated[
    Annotated[float, Tag("number")] | Annotated[dict[str, float], Tag("labels")],
    Discriminator(lambda value: "labels" if isinstance(value, Mapping) else "number"),
]
"""One number for all labels, or an object with a number per label. The discriminator keeps errors to one of the two."""


class ClassificationParameters(Strict):
    """Parameters of classify and pair."""

    top_k: int | None = Field(default=None, ge=1)
    """Number of labels to return, best first; all by default."""
    function_to_apply: Function | None = None
    """How logits become scores: "softmax" over all labels, "sigmoid" for each label, or "none" for raw logits. By
    default "softmax" where labels compete, "sigmoid" for a single label or where several may be true, and "none" for a
    regression."""
    truncation: Truncation | bool = "right"
    """What to do with an input that is too long: cut it on the "right" or "left", read it in overlapping "windows", or
    answer 422 ("error"). As in transformers, true means the head's default, and false means "error"."""
    max_length: int | None = Field(default=None, ge=MIN_ROW)
    """Maximum tokens of a row, special ones included. It can only lower the limit of the model (and of a window): a
    larger number has no effect."""
    window_scores: Literal["maximum", "mean"] = "maximum"
    """How the scores of windows are combined for each label: "maximum" finds what a single part says, "mean" rates the
    whole text."""
    threshold: Threshold | None = None
    """Labels with a lower score are left out; by default all are kept. A number holds for all labels. An object, such
    as {"sport": 0.3}, holds for the labels that it names, and the others are kept."""


class PairInput(Strict):
    """Two texts whose relation is to be labeled."""

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
    """The score of the label: a probability, or the raw logit if `function_to_apply` is "none"; for a regression, the
    number itself."""


Labeled = TypeVar("Labeled")


class Labels(Task[Labeled, ClassificationParameters, None, list[ScoredLabel]]):
    """What classify and pair share: their parameters, and how logits become labels."""

    parameters = ClassificationParameters
    to_cut: ClassVar[str] = 'set truncation to "windows", "right" or "left"'
    """The remedy in the error for an input that is too long."""

    def parse_parameters(self, given: Mapping[str, Any]) -> ClassificationParameters:
        return super().parse_parameters({"function_to_apply": self.head.function, **given})

    def decode(self, encoded: Encoded[None], logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
        return rank_labels(self.head, logits, parameters)

    def _check_head(self) -> None:
        super()._check_head()
        try:
            _check_labels(self.head, self.parse_parameters({}))
        except InputError as error:
            raise BundleError(f"the defaults of this {self.route} head are wrong: {error}") from None


class Classify(Labels[str]):
    """Label a text."""

    inputs = str

    def encode(self, inputs: str, parameters: ClassificationParameters) -> Encoded[None]:
        _check_labels(self.head, parameters)
        ids = self.tokenizer.ids(inputs)
        truncation, length = _fit(self, parameters)
        room = length - 2
        if truncation == "windows":
            return Encoded([self.tokenizer.single_row(part, [0]) for part in _parts(ids, room)], None, 0)
        if truncation == "error":
            _check_length(len(ids), room, length < self.max_length, self.to_cut)
        kept = _cut(ids, room, truncation)
        return Encoded([self.tokenizer.single_row(kept, [0])], None, len(ids) - len(kept))


class Pair(Labels[PairInput]):
    """Label how two texts relate."""

    inputs = PairInput

    def encode(self, inputs: PairInput, parameters: ClassificationParameters) -> Encoded[None]:
        _check_labels(self.head, parameters)
        first = self.tokenizer.ids(inputs.text, "inputs.text")
        second = self.tokenizer.ids(inputs.text_pair, "inputs.text_pair")
        rows, truncated = self.rows(first, second, parameters)
        return Encoded(rows, None, truncated)

    def rows(self, first: list[int], second: list[int], parameters: ClassificationParameters) -> tuple[list[Row], int]:
        """Build the rows of two texts from their ids; return them and the number of tokens that were cut."""
        truncation, length = _fit(self, parameters)
        room = length - self.tokenizer.layout.specials
        if truncation == "windows":
            return [self.tokenizer.pair_row(one, other, [0]) for one, other in _meetings(first, second, room)], 0
        total = len(first) + len(second)
        if truncation == "error":
            _check_length(total, room, length < self.max_length, self.to_cut)
        first_room, second_room = share_room(len(first), len(second), room)
        first, second = _cut(first, first_room, truncation), _cut(second, second_room, truncation)
        return [self.tokenizer.pair_row(first, second, [0])], total - len(first) - len(second)

    def room(self, parameters: ClassificationParameters) -> int:
        """Return the maximum number of tokens of both texts in one row."""
        return _fit(self, parameters).length - self.tokenizer.layout.specials


def rank_labels(head: HeadSpec, logits: Logits, parameters: ClassificationParameters) -> list[ScoredLabel]:
    """Score each label from its logits [windows, labels], and return the best `top_k`, best first."""
    by_window = scores_of(head, logits, parameters.function_to_apply or head.function)
    if len(by_window) == 1:  # as most inputs have
        scores: Scores = by_window[0]
    else:
        scores = by_window.max(axis=0) if parameters.window_scores == "maximum" else by_window.mean(axis=0)
    best = np.argsort(-scores, kind="stable")[: parameters.top_k]
    least = thresholds(head.labels, parameters.threshold)
    return [{"label": head.labels[i], "score": float(scores[i])} for i in best if scores[i] >= least[i]]


def scores_of(head: HeadSpec, logits: Logits, function: Function) -> Scores:
    """Return the scores [windows, labels] of logits, after dividing them by the head's temperature."""
    if function == "softmax":
        return softmax(logits, head.temperature)
    if function == "sigmoid":
        return sigmoid(logits, head.temperature)
    scaled: Scores = logits.astype(np.float64) / head.temperature
    return scaled


def thresholds(labels: Sequence[str], given: float | Mapping[str, float] | None) -> list[float]:
    """Return the minimum score of each label; minus infinity if none is given."""
    if isinstance(given, Mapping):
        return [given.get(label, -np.inf) for label in labels]
    return [-np.inf if given is None else given] * len(labels)


class Fit(NamedTuple):
    """How an input that is too long is made to fit."""

    truncation: Truncation
    length: int
    """Maximum tokens of a row, special ones included."""


def _fit(task: Classify | Pair, parameters: ClassificationParameters) -> Fit:
    """Return how inputs are made to fit; windows are as long as the head's training rows, if that is known."""
    truncation, length = _truncation(task.head, parameters.truncation), task.max_length
    if truncation == "windows":
        length = min(length, max(task.head.trained.max_length or length, MIN_ROW))
    return Fit(truncation, min(length, parameters.max_length or length))


def _truncation(head: HeadSpec, given: Truncation | bool) -> Truncation:
    """Resolve the booleans of transformers: true means the head's default way to cut, false means "error"."""
    if isinstance(given, str):
        return given
    usual = head.defaults.get("truncation")
    cuts: Truncation = usual if usual in ("left", "windows") else "right"
    return cuts if given else "error"


def _parts(ids: list[int], room: int) -> list[list[int]]:
    """Divide ids into overlapping windows of `room` tokens; raise InputError if there are too many."""
    if len(ids) <= room:
        return [ids]
    starts = slide(len(ids), room, usual_overlap(room), "inputs").tolist()
    return [ids[start : start + room] for start in starts]


def _meetings(first: list[int], second: list[int], room: int) -> Iterable[tuple[list[int], list[int]]]:
    """Return every window of one text paired with every window of the other; raise InputError if there are too many."""
    first_room, second_room = share_room(len(first), len(second), room)
    parts, others = _parts(first, first_room), _parts(second, second_room)
    if len(parts) * len(others) > MAX_WINDOWS:
        raise InputError(
            "inputs",
            f"has {len(first)} and {len(second)} tokens, which makes {len(parts) * len(others)} pairs of windows, "
            f"expected at most {MAX_WINDOWS}; shorten one of the texts",
        )
    return product(parts, others)


def share_room(first: int, second: int, room: int) -> tuple[int, int]:
    """Return the lengths of two texts after removing tokens from the longer one (the second, if equal) until they fit.

    Equivalent to `_truncate_seq_pair` in Google's run_classifier.py, without its loop: the shorter text keeps all its
    tokens, up to half of the room.
    """
    kept = min(first, max(room - second, room - room // 2))
    return kept, min(second, room - kept)


def _cut(ids: list[int], room: int, truncation: Truncation) -> list[int]:
    return ids[max(0, len(ids) - room) :] if truncation == "left" else ids[:room]


def _check_length(length: int, room: int, lowered: bool, to_cut: str) -> None:
    if length > room:
        limit, remedy = ("max_length leaves", "raise it") if lowered else ("this model takes", "shorten it")
        raise InputError(
            "inputs",
            f"has {length} tokens, but {limit} {room} besides the special ones; {remedy}, or {to_cut}",
        )


def _check_labels(head: HeadSpec, parameters: ClassificationParameters) -> None:
    """Raise InputError if parameters ask for more labels than the head has, or for unknown ones."""
    count = len(head.labels)
    if isinstance(parameters.threshold, Mapping):
        for label in parameters.threshold.keys() - set(head.labels):
            known = ", ".join(head.labels)[:500]
            raise InputError("parameters.threshold", f"has {label[:80]!r}, but this head has the labels {known}")
    if parameters.top_k is not None and parameters.top_k > count:
        raise InputError(
            "parameters.top_k", f"is {parameters.top_k}, but this head has {count} labels; pass 1 to {count}"
        )
