"""From which probability on a label should be taken as true: the threshold of the best F1 of each, on validation data.

The thresholds stand in the metrics of a head, and not in its defaults: /classify answers with all labels, as
transformers does, and a label that a default left out would be missing without a word. A client sends the object of
GET /heads/{head} as `threshold` where it wants decisions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.classification import PairInput
from training.evaluation.multi_label import Floats, Truth, truth_of
from training.evaluation.predictors import Predictor
from training.text.examples import TextExample

MIN_EXAMPLES = 20
"""Texts with a label, and without it, from which its threshold is fitted; with fewer it stays 0.5."""
USUAL = 0.5


def fit_thresholds(predictor: Predictor, head: str, examples: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Return {"thresholds": {label: probability}} of a multi-label head; {} for other heads, and without examples."""
    spec = predictor.head(head)
    if spec.problem_type != "multi_label_classification" or not examples:
        return {}
    inputs = [
        one.text if isinstance(one, TextExample) else PairInput(text=one.text_a, text_pair=one.text_b)
        for one in examples
    ]
    scores = np.zeros((len(examples), len(spec.labels)))
    for one in predictor.predict(head, inputs, {"top_k": None, "threshold": None, "function_to_apply": "sigmoid"}):
        found = {each["label"]: each["score"] for each in one.answer}
        scores[one.index] = [found[label] for label in spec.labels]
    truth = truth_of([one.label for one in examples], spec.labels)
    best = [best_threshold(truth[:, number], scores[:, number]) for number in range(len(spec.labels))]
    return {"thresholds": dict(zip(spec.labels, best, strict=True))}


def best_threshold(truth: Truth, scores: Floats) -> float:
    """Return the middle of the gap between scores [N] at which the F1 of a label is the highest; of equals the lower.

    USUAL where fewer than MIN_EXAMPLES texts have the label, or lack it.
    """
    if min(truth.sum(), (~truth).sum()) < MIN_EXAMPLES:
        return USUAL
    order = np.argsort(-scores, kind="stable")
    ranked: NDArray[np.floating] = scores[order]
    f1 = 2 * np.cumsum(truth[order]) / (np.arange(1, len(truth) + 1) + truth.sum())
    gaps = np.append(ranked[:-1] > ranked[1:], True)  # equal scores cannot be told apart
    last = len(f1) - 1 - int(np.where(gaps, f1, -1.0)[::-1].argmax())
    below = ranked[last + 1] if last + 1 < len(ranked) else 0.0
    return round(float((ranked[last] + below) / 2), 4)
