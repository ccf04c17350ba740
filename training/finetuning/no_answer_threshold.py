"""The threshold above which a question-answering head gives no answer, fitted on validation data.

It is compared with the logit of no answer minus that of the best span (`score_diff` in run_squad.py). It is chosen for
the mean of both kinds of questions, so it does not depend on the number of each kind in the data.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.predictor import LocalPredictor
from models.qa import QuestionInput
from training.evaluation.metrics import answer_f1
from training.text.examples import QuestionExample

MIN_EXAMPLES = 20
"""Minimum questions of each kind for fitting; with few, the threshold would be random."""


def fit_no_answer(predictor: LocalPredictor, head: str, examples: Sequence[QuestionExample]) -> float | None:
    """Return the threshold for `head` on `examples`; None if too few have or lack an answer."""
    answerable = np.array([bool(example.answers) for example in examples], dtype=bool)
    if min(answerable.sum(), (~answerable).sum()) < MIN_EXAMPLES:
        return None
    inputs = [QuestionInput(question=example.question, context=example.context) for example in examples]
    task: Any = predictor.task(head)
    parameters = task.parse_parameters({"top_k": 1, "handle_impossible_answer": False})
    margins, scores = np.zeros(len(examples)), np.zeros(len(examples))
    for one in predictor.predict(head, inputs, {"top_k": 1, "handle_impossible_answer": False}):
        encoded = task.encode(inputs[one.index], parameters)
        margins[one.index] = task.no_answer_margin(encoded, one.logits, parameters)
        scores[one.index] = answer_f1(one.answer["answer"], examples[one.index].answers)
    return best_threshold(margins, scores, answerable)


def best_threshold(margins: NDArray[np.floating], scores: NDArray[np.floating], answerable: NDArray[np.bool_]) -> float:
    """Return the threshold with the best mean of answerable F1 and unanswerable accuracy.

    `margins`, `scores` (the F1 of the best span) and `answerable` are [questions]. All thresholds between two margins
    are equivalent; the middle of the widest gap among the best is returned.
    """
    order = np.argsort(margins, kind="stable")
    margins = margins[order]
    gain = np.where(answerable[order], scores[order] / answerable.sum(), 0.0)  # of answering the questions up to here
    loss = np.where(answerable[order], 0.0, 1 / (~answerable).sum())
    means = np.concatenate([[0.0], np.cumsum(gain - loss)])  # number of answered questions, from none to all
    edges = np.concatenate([[margins[0] - 1], margins, [margins[-1] + 1]])
    widths = np.diff(edges)
    usable = widths > 0  # equal margins cannot be separated
    best = np.flatnonzero(usable & (means >= means[usable].max() - 1e-12))
    chosen = int(best[widths[best].argmax()])
    return float((edges[chosen] + edges[chosen + 1]) / 2)
