"""Multi-label figures, each beside the figure of the best answer that ignores the text.

The definitions follow scikit-learn. A label counts in `macro_f1` if it occurs in the data or in the answers. For
`ranking_precision`, the answer that ignores the text ranks labels by frequency.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.classification import thresholds
from models.predictor import Prediction
from models.task import HeadSpec
from training.evaluation.metrics import Scores, expected_calibration_error

Truth = NDArray[np.bool_]
Floats = NDArray[np.floating]


def multi_label_scores(gold: Truth, scores: Floats, predicted: Truth) -> Scores:
    """Return the figures of `scores` (probabilities) and `predicted` labels, both [N, L] like `gold`."""
    counts = gold.sum(axis=0)
    sure = np.maximum(scores, 1 - scores).ravel()
    return {
        "micro_f1": micro_f1(gold, predicted),
        "micro_f1_chance": _constant_micro_f1(counts, len(gold)),
        "macro_f1": macro_f1(gold, predicted),
        "macro_f1_chance": _constant_macro_f1(counts, len(gold)),
        "subset_accuracy": float((gold == predicted).all(axis=1).mean()),
        "subset_accuracy_chance": max(Counter(row.tobytes() for row in gold).values()) / len(gold),
        "ranking_precision": ranking_precision(gold, scores),
        "ranking_precision_chance": ranking_precision(gold, np.broadcast_to(rankdata(counts, "ordinal"), gold.shape)),
        "loss": binary_loss(gold, scores),
        "loss_chance": binary_loss(gold, np.broadcast_to(gold.mean(axis=0), gold.shape)),
        "calibration_error": expected_calibration_error(sure, ((scores >= 0.5) == gold).ravel()),
    }


def micro_f1(gold: Truth, predicted: Truth) -> float:
    """Return the F1 of all decisions together; 0 if no label is true or predicted."""
    return float(2 * (gold & predicted).sum() / max(1, gold.sum() + predicted.sum()))


def macro_f1(gold: Truth, predicted: Truth) -> float:
    """Return the unweighted mean F1 of the labels that occur in either."""
    sizes = gold.sum(axis=0) + predicted.sum(axis=0)
    hits = (gold & predicted).sum(axis=0)[sizes > 0]
    return float((2 * hits / sizes[sizes > 0]).mean()) if len(hits) else 0.0


def ranking_precision(gold: Truth, scores: Floats) -> float:
    """Return the label ranking average precision: of the labels ranked at or above a true one, the share of true ones.

    Equal scores share the lowest of their ranks; a text without a true label, or without a false one, counts as 1.
    """
    return float(np.mean([_ranked(*each) for each in zip(gold, scores, strict=True)]))


def _ranked(gold: Truth, scores: Floats) -> float:
    if gold.all() or not gold.any():
        return 1.0
    among_all, among_true = rankdata(-scores, "max")[gold], rankdata(-scores[gold], "max")
    return float((among_true / among_all).mean())


def binary_loss(gold: Truth, scores: Floats) -> float:
    """Return the mean binary cross-entropy of a decision, in nats."""
    likelihood = np.where(gold, scores, 1 - scores)
    return float(-np.log(np.maximum(likelihood, np.finfo(float).tiny)).mean())


def _constant_micro_f1(counts: NDArray[np.integer], texts: int) -> float:
    """Return the best F1 of always answering the same labels: the most frequent ones, in the best number."""
    hits = np.cumsum(np.sort(counts)[::-1])
    answered = texts * np.arange(1, len(counts) + 1)
    return float((2 * hits / (counts.sum() + answered)).max())


def _constant_macro_f1(counts: NDArray[np.integer], texts: int) -> float:
    """Return the F1 of always answering all labels that occur."""
    occurring = counts[counts > 0]
    return float((2 * occurring / (occurring + texts)).mean()) if len(occurring) else 0.0


def truth_of(examples: Sequence[tuple[str, ...]], labels: Sequence[str]) -> Truth:
    """Return which labels are true, [N, L], from the labels of each example."""
    return np.array([[label in found for label in labels] for found in examples], dtype=bool).reshape(-1, len(labels))


def score_label_sets(gold: Sequence[tuple[str, ...]], answers: Iterable[Prediction], spec: HeadSpec) -> Scores:
    """Return the figures of answers that contain all labels with their probabilities.

    A label is predicted if it reaches the head's default threshold, 0.5 if it has none.
    """
    scores = score_table(((one.index, one.answer) for one in answers), spec.labels, len(gold))
    return multi_label_scores(truth_of(gold, spec.labels), scores, scores >= least_scores(spec))


def score_table(answers: Iterable[tuple[int, Any]], labels: Sequence[str], count: int) -> NDArray[np.float64]:
    """Return the score of each label, [count, L], from the indices and the answers of `count` examples.

    It is 0 for a label that an answer leaves out, because it is below a threshold.
    """
    scores = np.zeros((count, len(labels)))
    for place, answer in answers:
        found = {each["label"]: each["score"] for each in answer}
        scores[place] = [found.get(label, 0.0) for label in labels]
    return scores


def least_scores(spec: HeadSpec) -> NDArray[np.float64]:
    """Return the lowest probability at which each label is predicted, [L]."""
    least = np.array(thresholds(spec.labels, spec.defaults.get("threshold")))
    return np.where(np.isinf(least), 0.5, least)
