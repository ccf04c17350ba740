"""Exemplars: for each bucket of a histogram, the newest request in it that has a trace.

Only the OpenMetrics format carries them. Each process keeps the exemplars of its own requests, and adds them to the
summed metrics of all workers: the files in which workers share metrics (prometheus_client) cannot hold exemplars.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

MAX_AGE_SECONDS = 60.0
"""Longer than the usual scrape interval. Prometheus rejects exemplars that are too old."""

Key = tuple[str, frozenset[tuple[str, str]]]
"""The name of a sample and its labels."""


class Exemplars:
    """The exemplars of one process; any thread may read them."""

    def __init__(self, bounds: Iterable[float]) -> None:
        """`bounds`: upper bounds of the buckets, the same for all histograms."""
        self._bounds = tuple(bounds)
        self._names = (*map(floatToGoString, self._bounds), "+Inf")
        self._newest: dict[tuple[Histogram, tuple[str, ...], int], tuple[Exemplar, float]] = {}

    def note(self, histogram: Histogram, labels: tuple[str, ...], value: float, trace: Mapping[str, str]) -> None:
        """Keep an observation as the newest of its bucket; `trace` holds its trace_id and span_id."""
        bucket = bisect_left(self._bounds, value)
        now = time.time()
        self._newest[histogram, labels, bucket] = Exemplar(dict(trace), value, now), now

    def over(self, registry: CollectorRegistry) -> CollectorRegistry:
        """Return a registry with the metrics of another one plus the exemplars."""
        whole = CollectorRegistry()
        whole.register(_Laid(registry, self._recent()))
        return whole

    def _recent(self) -> dict[Key, Exemplar]:
        oldest = time.time() - MAX_AGE_SECONDS
        return {self._key(*place): exemplar for place, (exemplar, at) in self._newest.copy().items() if at >= oldest}

    def _key(self, histogram: Histogram, labels: tuple[str, ...], bucket: int) -> Key:
        pairs = zip((*histogram._labelnames, "le"), (*labels, self._names[bucket]), strict=True)
        return f"{histogram._name}_bucket", frozenset(pairs)


class _Laid(Collector):
    def __init__(self, registry: CollectorRegistry, exemplars: Mapping[Key, Exemplar]) -> None:
        self._registry = registry
        self._exemplars = exemplars
        self._names = {name for name, _ in exemplars}

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            if f"{metric.name}_bucket" in self._names:
                metric.samples = [
                    sample._replace(exemplar=self._exemplars.get((sample.name, frozenset(sample.labels.items()))))
                    for sample in metric.samples
                ]
            yield metric
