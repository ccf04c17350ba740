"""Calibration of a classifier: one temperature for all its logits, fitted on validation data (Guo et al., 2017).

The likelihood alone has no lower limit for T: if every answer is right, a lower T always makes the data more likely,
until each score is 1. So labels are smoothed, as if there were DOUBTFUL more examples with uniform labels. With 30
examples, all right, this allows a mean score of 0.87; with thousands, it changes T by less than 1 %.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.metrics import expected_calibration_error, negative_log_likelihood

Logits = NDArray[np.floating]
Labels = NDArray[np.integer]

DOUBTFUL = 10
"""Examples with a uniform label that are added to the real ones; Platt (1999) adds one for each of two classes."""
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 100.0
MIN_ERRORS = 10
"""Minimum wrong answers for a T below 1: only errors show that scores are too low."""
MIN_GAIN = 4.0
"""Nats of log likelihood that a T below 1 must gain over T = 1 (a likelihood ratio test at 0.5 %)."""
FOLDS = 5
PRECISION = 1e-4
"""Tolerance of log T."""


@dataclass(frozen=True)
class Calibration:
    """A fitted temperature, and the calibration error on data that it was not fitted on."""

    temperature: float
    examples: int
    error: float | None
    """Expected calibration error by cross-fitting; None for a single example or none."""
    remark: str = ""
    """Why nothing was fitted; empty if T was fitted."""

    @classmethod
    def of(cls, logits: Logits, labels: Labels) -> "Calibration":
        """Calibrate `logits` [N, C] on `labels` [N]."""
        temperature = fit_temperature(logits, labels)
        return cls(temperature, len(labels), cross_fitted_error(logits, labels), _remark(temperature, logits, labels))


def decisions(logits: Logits, gold: NDArray[np.bool_]) -> tuple[Logits, NDArray[np.int64]]:
    """Return the N·L choices between "no" and "yes" of independent labels, as two classes.

    `logits` and `gold` are [N, L]. A softmax over 0 and a logit is the logit's sigmoid, at any temperature.
    """
    flat = logits.reshape(-1)
    return np.stack([np.zeros_like(flat), flat], axis=1), gold.reshape(-1).astype(np.int64)


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the T in 0.05..100 with the most likely softmax(logits / T), including the DOUBTFUL examples.

    `logits` [N, C], `labels` [N]. T is below 1 only if MIN_ERRORS and MIN_GAIN are reached. It is 1 without examples,
    or with a single class. The loss is convex in 1/T, so a golden-section search finds its only minimum.
    """
    if not len(labels) or logits.shape[1] < 2:
        return 1.0

    def loss(log_temperature: float) -> float:
        return smoothed_loss(logits / math.exp(log_temperature), labels)

    temperature = math.exp(_minimum(loss, math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)))
    return temperature if temperature >= 1 or _may_sharpen(logits, labels, temperature) else 1.0


def smoothed_loss(logits: Logits, labels: Labels) -> float:
    """Return the mean cross-entropy in nats of `logits` [N, C] at smoothed labels, with the DOUBTFUL examples."""
    doubt = DOUBTFUL / (len(labels) + DOUBTFUL)
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    log_sums = np.log(np.exp(shifted).sum(axis=1))
    chosen = shifted[np.arange(len(labels)), labels]
    return float((log_sums - (1 - doubt) * chosen - doubt * shifted.mean(axis=1)).mean())


def cross_fitted_temperatures(logits: Logits, labels: Labels, folds: int = FOLDS) -> NDArray[np.float64]:
    """Return a temperature for each example [N], fitted on the other folds; the folds are always the same."""
    fold = _folds(len(labels), folds)
    temperatures = np.ones(len(labels))
    for number in range(fold.max() + 1):
        inside = fold == number
        temperatures[inside] = fit_temperature(logits[~inside], labels[~inside])
    return temperatures


def cross_fitted_error(logits: Logits, labels: Labels, folds: int = FOLDS) -> float | None:
    """Return the expected calibration error of scores with a T that was fitted on other examples."""
    if len(labels) < 2:
        return None
    scaled = logits / cross_fitted_temperatures(logits, labels, folds)[:, None]
    confidence = 1 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)
    return expected_calibration_error(confidence, logits.argmax(axis=1) == labels)


def _remark(temperature: float, logits: Logits, labels: Labels) -> str:
    if not len(labels):
        return "no validation examples, so no temperature was fitted: scores may be far too high"
    if temperature != 1.0 or logits.shape[1] < 2:
        return ""
    errors = int((logits.argmax(axis=1) != labels).sum())
    return (
        f"the temperature stays 1: {len(labels):,} validation examples with {errors:,} errors are too little evidence "
        "for higher scores"
    )


def _may_sharpen(logits: Logits, labels: Labels, temperature: float) -> bool:
    errors = int((logits.argmax(axis=1) != labels).sum())
    gain = negative_log_likelihood(logits, labels) - negative_log_likelihood(logits / temperature, labels)
    return errors >= MIN_ERRORS and gain * len(labels) >= MIN_GAIN


def _folds(count: int, folds: int) -> NDArray[np.int64]:
    """Return the fold of each example: random, but always the same."""
    numbers = np.arange(count) % min(folds, count)
    return np.random.default_rng(0).permutation(numbers)


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the position of the only minimum of a function (golden-section search)."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    left_value, right_value = function(left), function(right)
    while high - low > PRECISION:
        if left_value < right_value:
            high, right, right_value = right, left, left_value
            left = high - ratio * (high - low)
            left_value = function(left)
        else:
            low, left, left_value = left, right, right_value
            right = low + ratio * (high - low)
            right_value = function(right)
    return (low + high) / 2
