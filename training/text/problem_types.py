"""The kind of labels of a data set: exclusive classes, labels of which several may be true, or numbers.

The names are those of transformers (`problem_type`).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from models.task import HeadSpec, ProblemType
from training.errors import DataError
from training.text.examples import Example, Label, PairExample, TextExample


def problem_of(examples: Iterable[Example]) -> ProblemType:
    """Return the problem type: multi-label if any label is a list, regression if one is a fraction, or classes."""
    labels = [example.label for example in examples if isinstance(example, TextExample | PairExample)]
    if any(isinstance(label, tuple) for label in labels):
        return "multi_label_classification"
    if any(isinstance(label, float) and not label.is_integer() for label in labels):
        return "regression"
    return "single_label_classification"


def problem_for(head: HeadSpec, examples: Sequence[Example]) -> ProblemType:
    """Return how a head reads labels; a head with a single label can be measured on numbers too (relevance)."""
    if head.problem_type != "single_label_classification" or len(head.labels) != 1:
        return head.problem_type
    return "regression" if problem_of(examples) == "regression" else "multi_label_classification"


def as_problem(examples: Sequence[Example], problem: ProblemType) -> list[Example]:
    """Return examples whose labels have the form of `problem`; raise DataError for a label that cannot have it."""
    return [_converted(example, problem, number) for number, example in enumerate(examples, start=1)]


def _converted(example: Example, problem: ProblemType, number: int) -> Example:
    if not isinstance(example, TextExample | PairExample):
        return example
    try:
        label = CONVERTERS[problem](example.label)
        return replace(example, label=label)
    except ValueError:
        shown = list(example.label) if isinstance(example.label, tuple) else example.label
        raise DataError(
            f"example {number} has the label {shown!r}, expected {WANTED[problem]} ({problem}); correct it, or set "
            "problem_type"
        ) from None


def _as_class(label: Label) -> str:
    if isinstance(label, tuple):
        raise ValueError
    return str(int(label) if isinstance(label, float) and label.is_integer() else label)


def _as_labels(label: Label) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (_as_class(label),)


def _as_number(label: Label) -> float:
    if isinstance(label, tuple):
        raise ValueError
    if not math.isfinite(number := float(label)):
        raise ValueError
    return number


CONVERTERS: dict[ProblemType, Callable[[Label], Label]] = {
    "single_label_classification": _as_class,
    "multi_label_classification": _as_labels,
    "regression": _as_number,
}
WANTED: dict[ProblemType, str] = {
    "single_label_classification": "one class",
    "multi_label_classification": "a list of labels",
    "regression": "a number",
}
