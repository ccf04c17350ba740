"""The threshold with the best F1 of each label, on validation data.

The thresholds are in the metrics of a head, not in its defaults. /classify answers with all labels, as transformers
does, and a default threshold would silently leave labels out. A client that needs decisions sends the object of
GET /heads/{head} as `threshold`.
"""

from collections.abc import Sequence
from typing import Any

from training.evaluation.class_figures import best_threshold
from training.evaluation.multi_label import score_table, truth_of
from training.evaluation.predictors import AnyPredictor, input_of

USUAL = 0.5
"""Threshold of a label that too few texts have or lack."""


def fit_thresholds(predictor: AnyPredictor, head: str, examples: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Return {"thresholds": {label: probability}} of a multi-label head; {} for other heads, and without examples."""
    spec = predictor.head(head)
    if spec.problem_type != "multi_label_classification" or not examples:
        return {}
    inputs = [input_of(one) for one in examples]
    asked = {"top_k": None, "threshold": None, "function_to_apply": "sigmoid"}
    answers = ((one.index, one.answer) for one in predictor.predict(head, inputs, asked))
    scores = score_table(answers, spec.labels, len(examples))
    truth = truth_of([one.label for one in examples], spec.labels)
    best = [best_threshold(*columns) for columns in zip(scores.T, truth.T, strict=True)]
    found = {label: USUAL if one is None else round(one, 4) for label, one in zip(spec.labels, best, strict=True)}
    return {"thresholds": found}
