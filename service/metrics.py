"""What Prometheus scrapes: requests, stages, batches, queue, truncation, confidence.

Label values come from the bundles and from fixed lists only, never from a request, so that no client can create series.
With several workers each process writes its figures to files in PROMETHEUS_MULTIPROC_DIR, and a scrape of any worker
adds them up.
"""

import os
import re
from pathlib import Path
from typing import TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# 0.1 ms to 30 s: a short text takes some milliseconds, a stage of it less than one.
SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075),
    *(0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512)
TOKENS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 8192, 16384, 32768, 65536)
SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)

DIFFERENCES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

# Every series exists from the start: of one that begins at 1, rate() would miss the first event, often the only one.
REJECTED = ("unauthorized", "body-too-large", "queue-full", "unavailable")
DROPPED = ("client_gone", "deadline", "draining", "failed", "lane")
STAGES = ("tokenize", "queue", "encode", "decode")

Metric = TypeVar("Metric", Counter, Histogram)


class Metrics:
    """One instance an app; every name starts with bertheads_, but for those of the process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a timestamp beside every series, which nobody asks for
        self.registry = registry = CollectorRegistry()
        self._series: dict[tuple[Counter | Histogram, tuple[str, ...]], Counter | Histogram] = {}
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
        self.in_flight = Gauge(
            "bertheads_requests_in_flight",
            "Requests being answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        ProcessCollector(registry=registry)  # memory, processor, file descriptors; of one worker only
        self._batches(registry)
        self._queue(registry)
        self._answers(registry)
        self._bundles(registry)
        self.bundle = Gauge(
            "bertheads_bundle_info",
            "Always 1; the labels say what is served",
            ["bundle", "version", "precision", "provider"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.workers = Gauge(
            "bertheads_workers", "Workers that there should be", registry=registry, multiprocess_mode="livemax"
        )
        self.ready = Gauge(
            "bertheads_ready",
            "Workers that are ready (0 or 1 each)",
            registry=registry,
            multiprocess_mode="livesum",
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
            "bertheads_shadow_disagreements_total", "Inputs that it answered otherwise", ["head"], registry=registry
        )
        self.shadow_difference = Histogram(
            "bertheads_shadow_score_difference",
            "Difference of the scores of the best answers, without sign",
            ["head"],
            buckets=DIFFERENCES,
            registry=registry,
        )

    def note_bundle(self, name: str, precision: str, provider: str, loaded_at: float) -> None:
        """Say that a bundle, as NAME/VERSION, is served."""
        self.bundle.labels(*name.split("/"), precision, provider).set(1)
        self.loaded_at.labels(*name.split("/")).set(loaded_at)
        for result in ("ok", "refused"):
            self.reloads.labels(name.split("/")[0], result)

    def forget_bundle(self, name: str, precision: str, provider: str) -> None:
        """Say that a bundle is not served any more; where several workers share files, its series stay, at 0."""
        several = MULTIPROCESS_DIRECTORY in os.environ
        for gauge, labels in (
            (self.bundle, (*name.split("/"), precision, provider)),
            (self.loaded_at, name.split("/")),
        ):
            gauge.labels(*labels).set(0)
            if not several:
                gauge.remove(*labels)

    def series(self, metric: Metric, *labels: str) -> Metric:
        """Return one series of a metric; of `labels()`, which takes a lock, this is a fifth of the time."""
        found = self._series.get((metric, labels))
        if found is None:
            found = self._series[metric, labels] = metric.labels(*labels)
        return found  # type: ignore[return-value]  # as its metric

    def declare(self, head: str) -> None:
        """Let the series of a head begin at zero."""
        for metric in (self.truncated_inputs, self.truncated_tokens, self.inputs, self.tokens, self.confidence):
            metric.labels(head)
        for counter in (self.shadow_inputs, self.shadow_disagreements, self.shadow_difference):
            counter.labels(head)
        for stage in STAGES:
            self.stage.labels(stage, head)

    def expose(self) -> bytes:
        """Return the text format, of all workers where there are several."""
        directory = os.environ.get(MULTIPROCESS_DIRECTORY)
        return generate_latest(collected(Path(directory)) if directory else self.registry)

    def ready_workers(self) -> int:
        """Return how many workers are ready."""
        directory = os.environ.get(MULTIPROCESS_DIRECTORY)
        return ready_workers(Path(directory) if directory else self.registry)


def ready_workers(figures: Path | CollectorRegistry) -> int:
    """Return how many workers are ready by a registry, or by the directory that they write to."""
    registry = collected(figures) if isinstance(figures, Path) else figures
    return int(registry.get_sample_value("bertheads_ready") or 0)


def collected(directory: Path) -> CollectorRegistry:
    """Return a registry that adds up what the workers wrote, gauges of the living only."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = re.fullmatch(r"gauge_live\w+_(\d+)\.db", file.name)
        if pid and not Path(f"/proc/{pid[1]}").exists():
            file.unlink(missing_ok=True)
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(directory))  # type: ignore[no-untyped-call]
    return registry
