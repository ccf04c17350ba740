"""Reliability of scores: how many answers with a score are right, and what a threshold keeps."""

import numpy as np
from numpy.typing import NDArray

from training.evaluation.report_figures import Bin, Threshold

BINS = 15
"""The same number as in expected_calibration_error (Guo et al., 2017)."""
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def bins(scores: Floats, right: Flags) -> list[Bin]:
    """Return the mean score and the share of right answers for bins of equal width, without empty ones.

    `scores` [N] are from 0 to 1.
    """
    place = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    return [_bin(number, scores[place == number], right[place == number]) for number in np.unique(place).tolist()]


def _bin(number: int, scores: Floats, right: Flags) -> Bin:
    return Bin(number / BINS, (number + 1) / BINS, len(scores), float(scores.mean()), float(right.mean()))


def thresholds(scores: Floats, right: Flags, wanted: int | None = None) -> list[Threshold]:
    """Return what each of THRESHOLDS keeps of answers with `scores` [N]; `wanted` counts the spans in the data."""
    return [_threshold(least, scores >= least, right, wanted) for least in THRESHOLDS] if len(scores) else []


def _threshold(least: float, kept: Flags, right: Flags, wanted: int | None) -> Threshold:
    count, hits = int(kept.sum()), int(right[kept].sum())
    recall = None if wanted is None else hits / max(1, wanted)
    return Threshold(least, count / len(kept), hits / count if count else None, recall)
