"""Splits validation data from training data: seeded, stratified by label, and with no text on both sides."""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from training.text.examples import Example, PairExample, QuestionExample, SpannedText, TaggedExample
from training.text.stratified_sample import stratified

BINS = 10
"""Maximum number of equal parts for the numbers of a regression; each part has ten or more."""


def hold_out(examples: Sequence[Example], share: float = 0.1, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Return the training part and the held-out part, both in the order of `examples`.

    Examples with the same text, pair or context are on one side. Each label keeps at least one example in the training
    part, so the held-out part may be empty. The stratum of an example is its rarest label; for a number,
    its bin, and for a question, whether it has an answer.
    """
    groups = list(_groups(examples))
    labels = _labels(examples)
    frequency = Counter(chain.from_iterable(labels))
    strata = [min((label for place in group for label in labels[place]), key=frequency.__getitem__) for group in groups]
    several = [number for number, count in enumerate(map(Counter(strata).__getitem__, strata)) if count > 1]
    count = max(1, round(share * len(groups))) if share > 0 else 0
    drawn = [several[place] for place in stratified([strata[number] for number in several], count, seed)]
    held = set(_spared([groups[number] for number in drawn], labels, frequency))
    training = [example for place, example in enumerate(examples) if place not in held]
    return training, [example for place, example in enumerate(examples) if place in held]


def _spared(groups: Sequence[Sequence[int]], labels: Sequence[set[Hashable]], left: Counter[Hashable]) -> Iterator[int]:
    """Yield the indices of groups that can be held out while every label keeps an example."""
    for group in groups:
        taken = Counter(chain.from_iterable(labels[place] for place in group))
        if all(left[label] > count for label, count in taken.items()):
            left -= taken
            yield from group


def _groups(examples: Sequence[Example]) -> Iterator[list[int]]:
    """Yield the indices of the examples that have the same text."""
    found: dict[Hashable, list[int]] = {}
    for place, example in enumerate(examples):
        found.setdefault(_text(example), []).append(place)
    yield from found.values()


def _text(example: Example) -> Hashable:
    """Return the text that must not be on both sides, in lowercase and with single spaces."""
    if isinstance(example, PairExample):
        return tuple(sorted((_plain(example.text_a), _plain(example.text_b))))
    if isinstance(example, QuestionExample):
        return _plain(example.context)
    return _plain(" ".join(example.tokens) if isinstance(example, TaggedExample) else example.text)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _labels(examples: Sequence[Example]) -> list[set[Hashable]]:
    """Return the labels that each example counts for; at least one."""
    numbers = [label for label in map(_label, examples) if isinstance(label, float)]
    bins = max(1, min(BINS, len(numbers) // BINS))
    edges = np.quantile(numbers, np.linspace(0, 1, bins + 1)[1:-1]) if numbers else np.zeros(0)
    return [_of(example, edges) or {""} for example in examples]


def _of(example: Example, edges: NDArray[np.float64]) -> set[Hashable]:
    if isinstance(example, TaggedExample):
        return {tag.split("-", 1)[1] if tag[:2] in ("B-", "I-") else tag for tag in example.tags}
    if isinstance(example, SpannedText):
        return {name for _, _, name in example.spans}
    if isinstance(example, QuestionExample):
        return {bool(example.answers)}
    label = _label(example)
    if isinstance(label, float):
        return {int(np.searchsorted(edges, label))}
    return set(label) if isinstance(label, tuple) else {label}


def _label(example: Example) -> object:
    """Return a class, a tuple of several, or a number; None for an example without one."""
    return getattr(example, "label", None)
