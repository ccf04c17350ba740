"""Observes answered inputs for the reference figures: of validation data at export, and of traffic in the service."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.bio import split_label
from models.classification import thresholds
from models.reference import (
    ANSWERED,
    CUT,
    MAX_LABELS,
    NONE,
    OTHER,
    UNANSWERED,
    UNCUT,
    FigureName,
    Numbers,
    Reference,
    is_number,
    label_names,
)
from models.row import Encoded
from models.task import HeadSpec
from models.task_registry import AnyTask, best_answer

MIN_INPUTS = 100
"""Minimum number of inputs for meaningful shares."""
QUANTILES = 10
"""Bins of a number, with equally many validation inputs: deciles, as usual for the stability index (Siddiqi, 2006)."""
DIGITS = 4
"""Significant digits of an edge between two bins."""
UNKNOWN_EDGES = [0.0, 0.05, 0.2]


class Observed(NamedTuple):
    """The properties of one answered input that the figures count."""

    label: Sequence[str]
    """All labels that were answered, each once."""
    number: float | None
    confidence: float | None
    tokens: int
    truncated: bool
    unknown: float | None


class Bins:
    """Sorts the inputs of a head into the bins of its reference figures."""

    def __init__(self, reference: Reference) -> None:
        self._label = reference.label
        self._numbers = [(name, numbers.edges, numbers.names) for name, numbers in reference.numbers.items()]

    def of(self, observed: Observed) -> Iterator[tuple[FigureName, str, float]]:
        """Yield figure, bin and weight for an input: the weight is 1, or 1/n for each of n labels."""
        if self._label:
            for name in observed.label:
                yield "label", name if name in self._label else OTHER, 1 / len(observed.label)
        for figure, edges, names in self._numbers:
            value = observed.number if figure == "label" else getattr(observed, figure)
            if value is not None:
                yield figure, names[bisect_left(edges, value)], 1.0
        yield "truncated", CUT if observed.truncated else UNCUT, 1.0


def observe(task: AnyTask, encoded: Encoded[Any], answer: Any) -> Observed:
    """Return the observed properties of an input that `task` encoded and answered with its head's defaults."""
    best, tokens = best_answer(answer), sum(len(row.input_ids) for row in encoded.rows)
    score = best["score"] if best else 0.0
    number = is_number(task.head)
    return Observed(
        label=_labels(task.head, answer, best),
        number=score if number else None,
        confidence=None if task.head.problem_type == "regression" else score,
        tokens=tokens + encoded.truncated,
        truncated=encoded.truncated > 0,
        unknown=None if task.tokenizer.kind == "BPE" else _count_unknown(task, encoded) / tokens,
    )


def measure(head: HeadSpec, observed: Sequence[Observed]) -> Reference | None:
    """Return the reference figures of a head; None for fewer than MIN_INPUTS inputs."""
    if len(observed) < MIN_INPUTS:
        return None
    cut = sum(one.truncated for one in observed)
    numbers = _known([one.number for one in observed])
    scores = _known([one.confidence for one in observed])
    unknown = _known([one.unknown for one in observed])
    return Reference(
        inputs=len(observed),
        label=_label_shares(head, observed),
        number=_deciles(numbers) if numbers else None,
        confidence=_deciles(scores) if scores else None,
        tokens=_deciles([one.tokens for one in observed]),
        truncated=_shares({UNCUT: len(observed) - cut, CUT: cut}),
        unknown=_tally(unknown, UNKNOWN_EDGES) if unknown else None,
    )


def _labels(head: HeadSpec, answer: Any, best: dict[str, Any] | None) -> Sequence[str]:
    """Return the answered labels or the entity types that were found; NONE if there are none."""
    if head.task == "qa":
        return (ANSWERED if best and best["answer"] else UNANSWERED,)
    if head.task == "tag":
        spans = answer["spans"] if isinstance(answer, dict) else answer
        return tuple({split_label(_type(span))[1]: None for span in spans}) or (NONE,)
    if head.task == "fill-mask":
        return ()
    if head.usual_function == "sigmoid":
        return given_labels(head, answer) or (NONE,)
    return (best["label"] if best else NONE,)


def _type(span: dict[str, str]) -> str:
    return span["entity_group"] if "entity_group" in span else span["entity"]


def given_labels(head: HeadSpec, answer: Sequence[dict[str, Any]]) -> list[str]:
    """Return the labels that a multi-label head predicts: those whose score reaches their threshold.

    A label without a default threshold is predicted if it is at least as likely as not.
    """
    even = 0.0 if head.function == "none" else 0.5
    limits = thresholds(head.labels, head.defaults.get("threshold"))
    least = {label: even if limit == -np.inf else limit for label, limit in zip(head.labels, limits, strict=True)}
    return [each["label"] for each in answer if each["score"] >= least[each["label"]]]


def _count_unknown(task: AnyTask, encoded: Encoded[Any]) -> int:
    return sum(row.input_ids.count(task.tokenizer.unk_id) for row in encoded.rows)


# ---- shares ----------------------------------------------------------------------------------------------------------


def _label_shares(head: HeadSpec, observed: Sequence[Observed]) -> dict[str, float] | None:
    names = label_names(head)
    counts = dict.fromkeys(names, 0.0)
    for one in observed if names else ():
        for name in one.label:
            counts[name] += 1 / len(one.label)
    kept = {name: counts[name] for name in sorted(names, key=lambda name: -counts[name])[:MAX_LABELS]}
    rest = sum(counts.values()) - sum(kept.values())
    if len(names) > MAX_LABELS:
        kept[OTHER] = kept.get(OTHER, 0.0) + rest
    return _shares(kept) if names else None


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _deciles(values: Sequence[float]) -> Numbers:
    """Return the shares of a number in bins between its deciles; equal deciles make one edge."""
    deciles = np.quantile(values, np.arange(1, QUANTILES) / QUANTILES, method="inverted_cdf")
    return _tally(values, sorted({float(f"{edge:.{DIGITS}g}") for edge in deciles}))


def _tally(values: Sequence[float], edges: list[float]) -> Numbers:
    counts = Counter(bisect_left(edges, value) for value in values)
    return Numbers(edges=edges, shares=list(_shares({n: counts[n] for n in range(len(edges) + 1)}).values()))


def _shares(counts: dict[Any, Any]) -> dict[Any, float]:
    """Return each count as a share of the total, rounded to six digits."""
    total = sum(counts.values())
    return {name: round(count / total, 6) for name, count in counts.items()}
