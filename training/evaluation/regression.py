"""Figures of numbers, beside the figures of an answer that ignores the text: always the median."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import pearsonr, spearmanr

from models.predictor import Prediction
from training.evaluation.metrics import Scores

Floats = NDArray[np.floating]


def regression_scores(gold: Floats, found: Floats) -> Scores:
    """Return correlations and the mean absolute error of numbers [N]; a constant correlates with nothing (0)."""
    varies = len(gold) > 1 and np.ptp(gold) > 0 and np.ptp(found) > 0
    return {
        "pearson": float(pearsonr(gold, found).statistic) if varies else 0.0,
        "pearson_chance": 0.0,
        "spearman": float(spearmanr(gold, found).statistic) if varies else 0.0,
        "spearman_chance": 0.0,
        "mean_absolute_error": float(np.abs(found - gold).mean()),
        "mean_absolute_error_chance": float(np.abs(np.median(gold) - gold).mean()),
    }


def score_numbers(gold: Sequence[float], answers: Iterable[Prediction]) -> Scores:
    """Return the figures of answers of one number each."""
    found = np.zeros(len(gold))
    for one in answers:
        found[one.index] = one.answer[0]["score"]
    return regression_scores(np.array(gold), found)
