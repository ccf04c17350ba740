"""Counts answered inputs in the bins of their head's reference figures, so that Prometheus can compute drift.

Only inputs that are comparable with the validation data count. They come on the route of the head's own task, with its
default parameters (except those that change no figure), and are answered by the default heads. A canary, a shadow and
a bundle chosen with X-Bundle have other weights than the reference, so they do not count. deploy/prometheus/drift.yml
computes the drift index.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from prometheus_client import Counter

from models.observation import Bins, observe
from models.reference import Reference
from models.row import Encoded
from models.task import HeadSpec, Strict
from service.heads import Head
from service.metric_files import VARIABLE
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.inference import Call

HARMLESS = {"top_k", "redact"}
"""Parameters that change how much of an answer is shown, but neither the best answer nor its score."""
MIN_INPUTS = 0.5
"""An empty bin of the reference is shown as this many inputs. It cannot be 0: the index takes logarithms, and 0 marks a
bin that is no longer used."""

Cell = tuple[str, str, str]
"""Names of head, figure and bin."""


class Watched:
    """A head with reference figures."""

    def __init__(self, head: Head, reference: Reference, metrics: Metrics) -> None:
        self.head = head
        self._bins = Bins(reference)
        self._cells: dict[tuple[str, str], Counter] = {
            (figure, name): metrics.drift_inputs.labels(head.name, figure, name)
            for figure, shares in reference.shares.items()
            for name in shares
        }
        self._compared = compared_parameters(head.spec, type(head.defaults))

    def is_usual(self, parameters: Strict) -> bool:
        """Whether the parameters leave everything at its default that a figure depends on."""
        return parameters is self.head.defaults or all(self._agree(name, parameters) for name in self._compared)

    def _agree(self, name: str, parameters: Strict) -> bool:
        value = getattr(parameters, name)
        as_usual = value is None and name == "function_to_apply"  # then the head's own default applies
        return bool(as_usual or value == getattr(self.head.defaults, name))

    def count(self, encoded: Sequence[Encoded[Any]], answers: Sequence[Any]) -> None:
        """Count the inputs of a request; increment each series once."""
        counts: defaultdict[tuple[str, str], float] = defaultdict(float)
        for item, answer in zip(encoded, answers, strict=True):
            for figure, name, amount in self._bins.of(observe(self.head.task, item, answer)):
                counts[figure, name] += amount
        for cell, count in counts.items():
            self._cells[cell].inc(count)


class Drift:
    """Counts the inputs of all heads that are served."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._watched: dict[str, Watched] = {}
        self._cells: set[Cell] = set()

    def watch(self, heads: Mapping[str, Head]) -> None:
        """From now on, count for these heads, and only for those that have reference figures."""
        found = {name: reference for name, head in heads.items() if (reference := reference_of(head))}
        cells = {
            (name, figure, one): max(share, MIN_INPUTS / reference.inputs)
            for name, reference in found.items()
            for figure, shares in reference.shares.items()
            for one, share in shares.items()
        }
        self._forget(self._cells - cells.keys(), self._watched.keys() - found.keys())
        for cell, share in cells.items():
            self._metrics.reference_share.labels(*cell).set(share)
        for name, reference in found.items():
            self._metrics.reference_inputs.labels(name).set(reference.inputs)
        self._watched = {name: Watched(heads[name], found[name], self._metrics) for name in found}
        self._cells = set(cells)

    def count(self, call: "Call", encoded: Sequence[Encoded[Any]], answers: Sequence[Any]) -> None:
        """Count the answered inputs of a call, if they are comparable with the validation data."""
        watched = self._watched.get(call.head.name)
        if watched and watched.head is call.head and call.task is call.head.task and watched.is_usual(call.parameters):
            watched.count(encoded, answers)

    def _forget(self, cells: set[Cell], heads: set[str]) -> None:
        """Remove series. With several workers they are set to 0 instead, and the Prometheus rules ignore them."""
        metrics, several = self._metrics, VARIABLE in os.environ
        for cell in cells:
            metrics.reference_share.labels(*cell).set(0)
            if not several:
                metrics.reference_share.remove(*cell)
                metrics.drift_inputs.remove(*cell)
        for name in heads:
            metrics.reference_inputs.labels(name).set(0)
            if not several:
                metrics.reference_inputs.remove(name)


def reference_of(head: Head) -> Reference | None:
    """Return the reference figures of a head, or None if its bundle has none."""
    return head.bundle.manifest.heads[head.name].reference


def compared_parameters(head: HeadSpec, parameters: type[Strict]) -> list[str]:
    """Return the names of the parameters that a figure depends on; with multi-label heads, top_k is one of them."""
    harmless = HARMLESS - {"top_k"} if head.usual_function == "sigmoid" else HARMLESS
    return [name for name in parameters.model_fields if name not in harmless]
