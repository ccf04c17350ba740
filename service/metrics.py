"""The metrics that Prometheus scrapes: requests, stages, batches, queue, truncation, confidence.

Label values come only from the bundles and from fixed lists, never from a request, so no client can create series.
With several workers, each process writes its metrics to files (service/metric_files.py), and a scrape of any worker
returns their sums. A page is computed on a thread, at most once per second.
"""

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from service import logs
from service.exemplars import Exemplars
from service.metric_files import ALL, GAUGES, RESTARTS, VARIABLE, collected

MAX_AGE_SECONDS = 1.0
"""Maximum age of a page."""
OPEN_METRICS = "application/openmetrics-text"

# 0.1 ms to 30 s: a short text takes a few milliseconds, each of its stages less than one.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)
TOKENS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768, 65536)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)

DIFFERENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Every series exists from the start. If a series began at 1, rate() would miss its first event, often the only one.
REJECTED = ("unauthorized", "forbidden", "body-too-large", "queue-full", "unavailable")
DROPPED = ("client_gone", "deadline", "draining", "failed", "lane")
STATUS_CLASSES = ("2xx", "4xx", "5xx")
MALFORMED = ("not-http", "tls", "http2", "headers-too-long", "headers-too-many", "headers-too-slow")
REFUSED = ("limit", "reserve", "memory")
SAMPLED = ("written", "busy", "full", "failed")
STAGES = ("tokenize", "queue", "encode", "decode")

Metric = TypeVar("Metric", Counter, Histogram)
Value = TypeVar("Value")


class Shared(Generic[Value]):
    """A value shared by all callers on an event loop; a thread computes it at most once per MAX_AGE_SECONDS."""

    def __init__(self, compute: Callable[[], Value]) -> None:
        self._compute = compute
        self._newest: asyncio.Future[Value] | None = None
        self._stale_at = 0.0

    async def get(self) -> Value:
        """Return the newest value, or wait for it; raise the error of its computation."""
        if self._newest is None or (self._newest.done() and time.monotonic() >= self._stale_at):
            self._newest = asyncio.ensure_future(asyncio.to_thread(self._compute))
            self._stale_at = time.monotonic() + MAX_AGE_SECONDS
        return await asyncio.shield(self._newest)  # a caller that is cancelled does not cancel it for the others


class Metrics:
    """All metrics of an app. Names start with bertheads_, except the standard process_* metrics."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # nobody uses these timestamps
        self.registry = registry = CollectorRegistry()
        self._series: dict[tuple[Counter | Histogram, tuple[str, ...]], Counter | Histogram] = {}
        self.exemplars = Exemplars(SECONDS)
        self.requests = Counter(
            "bertheads_requests_total", "Requests answered", ["route", "head", "status"], registry=registry
        )
        self.seconds = Histogram(
            "bertheads_request_seconds",
            "Seconds from the first byte of a request to the last of its answer",
            ["route", "head"],
            buckets=SECONDS,
            registry=registry,
        )
        self.stage = Histogram(
            "bertheads_stage_seconds",
            "Seconds of an answered request in tokenize, queue, encode, decode",
            ["stage", "head"],
            buckets=SECONDS,
            registry=registry,
        )
        self.key_requests = Counter(
            "bertheads_key_requests_total",
            "Requests answered, by name of their key",
            ["key", "status"],
            registry=registry,
        )
        self.key_file_errors = Counter(
            "bertheads_key_file_errors_total",
            "Times that the file of keys became unreadable or invalid, and the keys before stayed valid",
            registry=registry,
        )
        self.key_file_broken = Gauge(
            "bertheads_key_file_broken",
            "1 while the file of keys is unreadable or invalid",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.client_deadlines = Counter(
            "bertheads_client_deadlines_total",
            "Requests answered 504 because a deadline passed that is shorter than the service's own",
            registry=registry,
        )
        self.in_flight = Gauge(
            "bertheads_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._connections(registry)
        self._limits(registry)
        ProcessCollector(registry=registry)  # memory, processor, file descriptors
        self._pages = {_format(accept): Shared(partial(self.expose, accept)) for accept in ("", OPEN_METRICS)}
        self._ready_workers = Shared(lambda: ready_workers(_registry(registry, GAUGES)))
        self._batches(registry)
        self._queue(registry)
        self._answers(registry)
        self._quality(registry)
        self._bundles(registry)
        self.bundle = Gauge(
            "bertheads_bundle_info",
            "Always 1; the labels say what is served",
            ["bundle", "version", "precision", "provider"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.restarts = Counter(*RESTARTS, registry=registry)  # counted by the supervisor
        self.log_drops = Counter(
            "bertheads_log_lines_dropped_total", "Log lines dropped because their reader stalls", registry=registry
        )
        logs.count_drops(self.log_drops.inc)
        self.workers = Gauge(
            "bertheads_workers", "Workers when all of them work", registry=registry, multiprocess_mode="livemax"
        )
        self.ready = Gauge(
            "bertheads_ready",
            "Workers that are ready (0 or 1 each)",
            registry=registry,
            multiprocess_mode="livesum",
        )

    def _connections(self, registry: CollectorRegistry) -> None:
        self.malformed = Counter(
            "bertheads_malformed_requests_total",
            "Requests that are not valid HTTP/1.1, or whose headers are too long or too slow",
            ["reason"],
            registry=registry,
        )
        self.refused_connections = Counter(
            "bertheads_refused_connections_total",
            "Connections closed because too many are open, or hold too much unparsed input",
            ["reason"],
            registry=registry,
        )
        self.connections = Gauge(
            "bertheads_connections", "Open connections", registry=registry, multiprocess_mode="livesum"
        )
        for reason in MALFORMED:
            self.malformed.labels(reason)
        for reason in REFUSED:
            self.refused_connections.labels(reason)

    def _limits(self, registry: CollectorRegistry) -> None:
        self.max_connections = Gauge(
            "bertheads_connections_limit",
            "Connections that may be open; more get 503",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.max_queue_tokens = Gauge(
            "bertheads_queue_tokens_limit",
            "Tokens that may wait; more get 429",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.max_memory = Gauge(
            "bertheads_memory_limit_bytes",
            "Memory that all processes of the service may use together: of their control group, or of the machine",
            registry=registry,
            multiprocess_mode="livemax",
        )

    def _batches(self, registry: CollectorRegistry) -> None:
        self.batches = Counter("bertheads_batches_total", "Runs of an encoder", registry=registry)
        self.batch_rows = Histogram("bertheads_batch_rows", "Rows of a batch", buckets=ROWS, registry=registry)
        self.batch_tokens = Histogram(
            "bertheads_batch_tokens", "Tokens of a batch, without padding", buckets=TOKENS, registry=registry
        )
        self.padding = Counter(
            "bertheads_padding_tokens_total", "Tokens that fill batches up, where a run pads", registry=registry
        )
        self.failed_batches = Counter(
            "bertheads_batch_failures_total", "Batches that failed and were retried row by row", registry=registry
        )
        self.lanes = Gauge(
            "bertheads_lanes_alive", "Lanes that take work", registry=registry, multiprocess_mode="livesum"
        )
        self.expected_lanes = Gauge(
            "bertheads_lanes", "Lanes when all of them work", registry=registry, multiprocess_mode="livemax"
        )
        self.lane_busy = Counter(
            "bertheads_lane_busy_seconds_total",
            "Seconds that lanes spent on batches, summed over lanes",
            registry=registry,
        )

    def _queue(self, registry: CollectorRegistry) -> None:
        self.queue_rows = Gauge(
            "bertheads_queue_rows", "Rows that wait", registry=registry, multiprocess_mode="livesum"
        )
        self.queue_tokens = Gauge(
            "bertheads_queue_tokens", "Tokens that wait", registry=registry, multiprocess_mode="livesum"
        )
        self.rejected = Counter(
            "bertheads_rejected_total", "Requests refused before any work", ["reason"], registry=registry
        )
        self.dropped = Counter(
            "bertheads_dropped_total", "Requests given up after admission", ["reason"], registry=registry
        )
        for reason in REJECTED:
            self.rejected.labels(reason)
        for reason in DROPPED:
            self.dropped.labels(reason)

    def _answers(self, registry: CollectorRegistry) -> None:
        self.truncated_inputs = Counter(
            "bertheads_truncated_inputs_total", "Inputs that were cut", ["head"], registry=registry
        )
        self.truncated_tokens = Counter(
            "bertheads_truncated_tokens_total", "Tokens cut from inputs", ["head"], registry=registry
        )
        self.inputs = Counter("bertheads_inputs_total", "Inputs answered", ["head"], registry=registry)
        self.tokens = Counter("bertheads_tokens_total", "Tokens encoded, without padding", ["head"], registry=registry)
        self.confidence = Histogram(
            "bertheads_confidence", "Score of the best answer to an input", ["head"], buckets=SCORES, registry=registry
        )

    def _quality(self, registry: CollectorRegistry) -> None:
        labels = ["head", "figure", "bin"]
        self.drift_inputs = Counter(
            "bertheads_drift_inputs_total",
            "Inputs answered that can be compared with the head's validation data",
            labels,
            registry=registry,
        )
        self.reference_share = Gauge(
            "bertheads_reference_share",
            "Share of the head's validation inputs, at least half an input; 0: the bin is no longer used",
            labels,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.reference_inputs = Gauge(
            "bertheads_reference_inputs",
            "Validation inputs that the reference shares of a head were measured on",
            ["head"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.samples = Counter(
            "bertheads_samples_total",
            "Inputs chosen for the sample file: written, or why they are not in it",
            ["result"],
            registry=registry,
        )
        for result in SAMPLED:
            self.samples.labels(result)

    def _bundles(self, registry: CollectorRegistry) -> None:
        self.reloads = Counter(
            "bertheads_reloads_total",
            "Bundles replaced or refused while serving",
            ["bundle", "result"],
            registry=registry,
        )
        self.loaded_at = Gauge(
            "bertheads_bundle_loaded_timestamp_seconds",
            "When a bundle was loaded, in seconds since 1970",
            ["bundle", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.shadow_inputs = Counter(
            "bertheads_shadow_inputs_total", "Inputs that the shadow answered too", ["head"], registry=registry
        )
        self.shadow_disagreements = Counter(
            "bertheads_shadow_disagreements_total",
            "Inputs that the shadow answered differently",
            ["head"],
            registry=registry,
        )
        self.shadow_difference = Histogram(
            "bertheads_shadow_score_difference",
            "Difference of the scores of the best answers, without sign",
            ["head"],
            buckets=DIFFERENCES,
            registry=registry,
        )

    def note_bundle(self, name: str, precision: str, provider: str, loaded_at: float) -> None:
        """Set the series of a bundle that is now served; `name` is NAME/VERSION, `loaded_at` is in Unix seconds."""
        self.bundle.labels(*name.split("/"), precision, provider).set(1)
        self.loaded_at.labels(*name.split("/")).set(loaded_at)
        for result in ("ok", "refused"):
            self.reloads.labels(name.split("/")[0], result)

    def forget_bundle(self, name: str, precision: str, provider: str) -> None:
        """Remove the series of a bundle that is no longer served; with several workers, set them to 0 instead."""
        several = VARIABLE in os.environ
        for gauge, labels in (
            (self.bundle, (*name.split("/"), precision, provider)),
            (self.loaded_at, name.split("/")),
        ):
            gauge.labels(*labels).set(0)
            if not several:
                gauge.remove(*labels)

    def series(self, metric: Metric, *labels: str) -> Metric:
        """Return one series of a metric, five times as fast as `labels()`, which takes a lock."""
        found = self._series.get((metric, labels))
        if found is None:
            found = self._series[metric, labels] = metric.labels(*labels)
        return found  # type: ignore[return-value]  # as its metric

    def declare(self, head: str) -> None:
        """Create the series of a head, at zero."""
        for metric in (self.truncated_inputs, self.truncated_tokens, self.inputs, self.tokens, self.confidence):
            metric.labels(head)
        for counter in (self.shadow_inputs, self.shadow_disagreements, self.shadow_difference):
            counter.labels(head)
        for stage in STAGES:
            self.stage.labels(stage, head)

    def declare_key(self, name: str) -> None:
        """Create the series of a key, at zero."""
        for status in STATUS_CLASSES:
            self.key_requests.labels(name, status)

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page in the format that an Accept header asks for, and its media type."""
        media = _format(accept)
        return await self._pages[media].get(), media

    def expose(self, accept: str = "") -> bytes:
        """Compute the page now."""
        return choose_encoder(accept)[0](self.exemplars.over(_registry(self.registry)))

    async def ready_workers(self) -> int:
        """Return how many workers are ready, including this one."""
        return max(1, await self._ready_workers.get()) if VARIABLE in os.environ else 1


def _format(accept: str) -> str:
    """Return the media type of OpenMetrics if the client accepts it, otherwise of the text format."""
    try:
        wanted = choose_encoder(accept)[1]
    except (TypeError, ValueError):  # a version that is not a number
        wanted = ""
    return choose_encoder(OPEN_METRICS if wanted.startswith(OPEN_METRICS) else "")[1]


def _registry(own: CollectorRegistry, pattern: str = ALL) -> CollectorRegistry:
    """Return the merged registry of all workers, or `own` if there is only one."""
    directory = os.environ.get(VARIABLE)
    return collected(Path(directory), pattern) if directory else own


def ready_workers(registry: CollectorRegistry) -> int:
    """Return how many workers are ready according to a registry; 0 if the workers' files cannot be read."""
    try:
        return int(registry.get_sample_value("bertheads_ready") or 0)
    except OSError:
        return 0
