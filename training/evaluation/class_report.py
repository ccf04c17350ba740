"""Reports of classify and pair: one class per text, several labels, or a number."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.evaluation.class_figures import best_threshold, class_figures, confused_pairs
from training.evaluation.length_slices import lengths_of, slices
from training.evaluation.multi_label import least_scores, score_table, truth_of
from training.evaluation.reliability import bins, thresholds
from training.evaluation.report_figures import NONE

Ranked = Sequence[dict[str, Any]]
"""An answer: labels with scores, the best first."""


def asked_of(example: Any) -> dict[str, str]:
    """Return the texts of an example, with the names of a request."""
    if hasattr(example, "text"):
        return {"text": example.text}
    return {"text": example.text_a, "text_pair": example.text_b}


def _lengths(examples: Sequence[Any], tokenizer: Tokenizer | None) -> list[int]:
    texts = [list(asked_of(example).values()) for example in examples]
    flat = iter(lengths_of([text for each in texts for text in each], tokenizer))
    return [sum(next(flat) for _ in each) for each in texts]


def by_confidence(wrong: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort wrong answers: the most confident first, and those without a score last."""
    return sorted(wrong, key=lambda one: -1.0 if one["score"] is None else one["score"], reverse=True)


# ---- one class -------------------------------------------------------------------------------------------------------


def class_parts(
    examples: Sequence[Any], answers: Sequence[Ranked], spec: HeadSpec, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return the parts of a report on texts with one class each."""
    gold = [str(example.label) for example in examples]
    found = [str(ranked[0]["label"]) for ranked in answers]
    scores = [float(ranked[0]["score"]) for ranked in answers]
    wrong = [
        {**asked_of(example), "expected": left, "found": right, "score": score}
        for example, left, right, score in zip(examples, gold, found, scores, strict=True)
        if left != right
    ]
    correct = np.array([left == right for left, right in zip(gold, found, strict=True)])
    return {
        **choice_parts(gold, found, scores, spec.labels),
        "slices": slices(_lengths(examples, tokenizer), lambda chosen: float(correct[chosen].mean())),
        "wrong": by_confidence(wrong),
    }


def choice_parts(
    gold: Sequence[str], found: Sequence[str], scores: Sequence[float], labels: Sequence[str]
) -> dict[str, Any]:
    """Return classes, confused pairs, reliability and thresholds for choices among labels."""
    pairs = list(zip(gold, found, strict=True))
    right = np.array([left == other for left, other in pairs], dtype=bool)
    confidence = np.array(scores, dtype=np.float64)
    return {
        "classes": class_figures(gold, found, [left for left, other in pairs if left == other], labels),
        "confused": confused_pairs(pair for pair in pairs if pair[0] != pair[1]),
        "bins": bins(confidence, right),
        "thresholds": thresholds(confidence, right),
    }


# ---- several labels --------------------------------------------------------------------------------------------------


def label_parts(
    examples: Sequence[Any], answers: Sequence[Ranked], spec: HeadSpec, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return the parts of a report on texts with any number of labels; a label is found at its threshold (0.5)."""
    names = spec.labels
    scores = score_table(enumerate(answers), names, len(examples))
    gold = truth_of([example.label for example in examples], names)
    found = scores >= least_scores(spec)
    wanted, seen, both = (_named(names, chosen) for chosen in (gold, found, gold & found))
    figures = class_figures(wanted, seen, both, names)
    best = [best_threshold(*columns) for columns in zip(scores.T, gold.T, strict=True)]
    confidence = np.where(found, scores, 1 - scores)

    def micro_f1(chosen: list[int]) -> float:
        hits = int((gold & found)[chosen].sum())
        return 2 * hits / max(1, int(gold[chosen].sum() + found[chosen].sum()))

    return {
        "classes": [replace(one, threshold=limit) for one, limit in zip(figures, best, strict=True)],
        "confused": confused_pairs(_mixed(names, gold, found)),
        "bins": bins(scores.ravel(), gold.ravel()),
        "slices": slices(_lengths(examples, tokenizer), micro_f1),
        "slice_figure": "micro F1",
        "wrong": by_confidence(
            [
                {
                    **asked_of(example),
                    "expected": list(example.label),
                    "found": _named(names, found[row]),
                    "score": float(confidence[row][gold[row] != found[row]].max()),
                }
                for row, example in enumerate(examples)
                if (gold[row] != found[row]).any()
            ]
        ),
    }


def _named(names: Sequence[str], chosen: Any) -> list[str]:
    """Return the labels of the true cells of a table whose last axis is labels."""
    return [names[place] for place in np.nonzero(chosen)[-1].tolist()]


def _mixed(names: Sequence[str], gold: Any, found: Any) -> list[tuple[str, str]]:
    """Return each missed label with each wrong label of the same text, or with NONE."""
    return [
        pair
        for missed, wrong in zip(gold & ~found, found & ~gold, strict=True)
        if missed.any() or wrong.any()
        for pair in product(_named(names, missed) or [NONE], _named(names, wrong) or [NONE])
    ]


# ---- numbers ---------------------------------------------------------------------------------------------------------


def number_parts(examples: Sequence[Any], answers: Sequence[Ranked], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the parts of a report on texts with a number each."""
    gold = np.array([float(example.label) for example in examples])
    found = np.array([float(ranked[0]["score"]) for ranked in answers])
    errors = np.abs(found - gold)
    worst = np.argsort(-errors, kind="stable").tolist()
    return {
        "slices": slices(_lengths(examples, tokenizer), lambda chosen: float(errors[chosen].mean())),
        "slice_figure": "mean absolute error",
        "numbers": list(zip(gold.tolist(), found.tolist(), strict=True)),
        "wrong": [
            {
                **asked_of(examples[row]),
                "expected": float(gold[row]),
                "found": float(found[row]),
                "error": float(errors[row]),
            }
            for row in worst
        ],
    }
