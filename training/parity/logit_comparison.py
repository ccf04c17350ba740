"""Compares the logits of two networks for the same rows: their choices, or their scores.

If labels exclude each other (softmax), the networks may choose different ones. `expected_loss` needs no gold labels: it
is the cost of such choices by PyTorch's own probabilities, in points. For 96 heads it was 0.31 on their own texts,
where their accuracy fell by 0.03 ± 0.05 (accuracy_gate.py). For independent labels (sigmoid, or no function), scores
are compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.task import HeadSpec, Logits, TaskName, sigmoid, softmax

Figures = dict[str, Any]
Floats = NDArray[np.float64]


def compare(spec: HeadSpec, expected: Sequence[Logits], found: Sequence[Logits]) -> Figures:
    """Return the figures of logits [positions, labels] of each row: the largest difference, and its effect."""
    differences = [np.abs(mine - theirs).max() for mine, theirs in zip(found, expected, strict=True)]
    shared = {
        "max_difference": float(max(differences)),
        "largest_logit": float(max(np.abs(logits).max() for logits in expected)),
    }
    compared = _compare_scores if compares_scores(spec) else _compare_choices
    return shared | compared(spec, expected, found)


def compares_scores(spec: HeadSpec) -> bool:
    """Tell whether scores are compared: labels are independent, or there is only one."""
    return spec.task in ("classify", "pair") and (len(spec.labels) == 1 or spec.function != "softmax")


# ---- choices -------------------------------------------------------------------------------------------------------


def _compare_choices(spec: HeadSpec, expected: Sequence[Logits], found: Sequence[Logits]) -> Figures:
    """Return the share of equal choices, and the cost of the others with its standard error over rows."""
    equal, costs = [], []
    for theirs, mine in zip(expected, found, strict=True):
        wanted, chosen = _choices(spec.task, theirs), _choices(spec.task, mine).argmax(axis=-1)
        equal.append(chosen == wanted.argmax(axis=-1))
        costs.append(_regrets(softmax(wanted, spec.temperature), chosen))
    choices = sum(map(len, equal))
    loss, error = _mean_over_rows(costs)
    return {
        "equal_argmax": float(np.concatenate(equal).mean()),
        "expected_loss": 100 * loss,
        "error": 100 * error,
        "choices": choices,
    }


def _choices(task: TaskName, logits: Logits) -> Logits:
    """Return the alternatives, one choice per row: labels of a position, or in qa positions of a row."""
    return logits.T if task == "qa" else logits


def _regrets(scores: Floats, chosen: NDArray[np.integer]) -> Floats:
    """Return how much less likely each chosen alternative is than the best."""
    costs: Floats = scores.max(axis=-1) - scores[np.arange(len(scores)), chosen]
    return costs


def _mean_over_rows(values: Sequence[Floats]) -> tuple[float, float]:
    """Return the mean of all values, and its standard error; the values of a row count as one sample."""
    counts = np.array([len(each) for each in values])
    sums = np.array([each.sum() for each in values])
    mean = sums.sum() / counts.sum()
    rows = len(values)
    spread = np.square(sums - mean * counts).sum() * rows / max(1, rows - 1)
    return float(mean), float(np.sqrt(spread) / counts.sum())


# ---- scores --------------------------------------------------------------------------------------------------------


def _compare_scores(spec: HeadSpec, expected: Sequence[Logits], found: Sequence[Logits]) -> Figures:
    """Return the difference of scores in points, for the label that differs most, with its standard error.

    For a sigmoid, it is the absolute difference. Scores without a function have no scale, so the squared difference is
    in points of their mean square. For a regression, whose numbers may be far from 0, it is in points of their
    variance.
    """
    theirs, mine = (np.concatenate(list(each)).astype(np.float64) / spec.temperature for each in (expected, found))
    sides = {"same_side": float(np.mean((theirs > 0) == (mine > 0)))}
    if spec.function == "none":
        middle = theirs.mean(axis=0) if spec.problem_type == "regression" else 0.0
        scale = np.square(theirs - middle).mean(axis=0)
        differences = np.square(mine - theirs) / np.maximum(scale, np.finfo(float).tiny)
        sides = {}
    else:
        differences = np.abs(sigmoid(mine) - sigmoid(theirs))
    worst = differences[:, differences.mean(axis=0).argmax()]
    error = worst.std(ddof=1) / np.sqrt(len(worst)) if len(worst) > 1 else 0.0
    return {
        **sides,
        "score_difference": 100 * float(worst.mean()),
        "error": 100 * float(error),
        "choices": len(worst),
    }
