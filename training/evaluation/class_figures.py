"""Precision, recall and F1 of each class, and the confused pairs of classes."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation.report_figures import ClassFigures, Confused

MIN_SUPPORT = 10
"""Minimum texts with a label, and without it, for suggesting a threshold."""


def class_figures(
    expected: Iterable[str], found: Iterable[str], right: Iterable[str], labels: Sequence[str]
) -> list[ClassFigures]:
    """Return the figures of each of `labels`: how often it is expected, found, and both.

    As in scikit-learn, a class that is never found has precision 0, and a class that the data lacks has recall 0.
    """
    support, seen, hits = Counter(expected), Counter(found), Counter(right)
    return [_figures(label, support[label], seen[label], hits[label]) for label in labels]


def _figures(label: str, support: int, found: int, right: int) -> ClassFigures:
    precision, recall = right / max(1, found), right / max(1, support)
    f1 = 2 * right / max(1, support + found)
    return ClassFigures(label, precision, recall, f1, support, found, right)


def confused_pairs(pairs: Iterable[tuple[str, str]]) -> list[Confused]:
    """Count the pairs of expected and found, the most frequent first, equal counts by name."""
    counts = Counter(pairs)
    return [Confused(*pair, counts[pair]) for pair in sorted(counts, key=lambda pair: (-counts[pair], pair))]


def best_threshold(scores: NDArray[np.floating], gold: NDArray[np.bool_]) -> float | None:
    """Return the threshold with the best F1, halfway between two of the scores [N]; the highest of several.

    None if fewer than MIN_SUPPORT texts have the label, or lack it.
    """
    count = int(gold.sum())
    if min(count, len(gold) - count) < MIN_SUPPORT:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(gold[order])
    ends = np.flatnonzero(np.diff(ranked, append=-np.inf))  # equal scores are kept or dropped together
    best = int(ends[np.argmax(2 * hits[ends] / (count + ends + 1))])
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)
