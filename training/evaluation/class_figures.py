"""Precision, recall and F1 of each class, and which class is taken for which."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.evaluation.report_figures import ClassFigures, Confused

MIN_SUPPORT = 10
"""Texts with a label, and without it, from which a threshold is suggested."""


def class_figures(
    expected: Iterable[str], found: Iterable[str], right: Iterable[str], labels: Sequence[str]
) -> list[ClassFigures]:
    """Return the figures of each of `labels`: how often it is expected, found, and found where it is expected.

    A class that is never found has precision 0, and one that the data lacks recall 0, as in scikit-learn.
    """
    support, seen, hits = Counter(expected), Counter(found), Counter(right)
    return [_figures(label, support[label], seen[label], hits[label]) for label in labels]


def _figures(label: str, support: int, found: int, right: int) -> ClassFigures:
    precision, recall = right / max(1, found), right / max(1, support)
    f1 = 2 * right / max(1, support + found)
    return ClassFigures(label, precision, recall, f1, support, found, right)


def confused_pairs(pairs: Iterable[tuple[str, str]]) -> list[Confused]:
    """Count the pairs of expected and found; the most frequent first, and equals by name."""
    counts = Counter(pairs)
    return [Confused(*pair, counts[pair]) for pair in sorted(counts, key=lambda pair: (-counts[pair], pair))]


def best_threshold(scores: NDArray[np.floating], gold: NDArray[np.bool_]) -> float | None:
    """Return the threshold of a label with the best F1, halfway between two scores [N], of equals the highest.

    None where fewer than MIN_SUPPORT texts have the label, or lack it.
    """
    count = int(gold.sum())
    if min(count, len(gold) - count) < MIN_SUPPORT:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(gold[order])
    ends = np.flatnonzero(np.diff(ranked, append=-np.inf))  # equal scores are kept or left out together
    best = int(ends[np.argmax(2 * hits[ends] / (count + ends + 1))])
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)
