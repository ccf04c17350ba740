"""If this breaks, a panel of latencies leads to no trace, to a wrong one, or Prometheus refuses the page."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from service.exemplars import MAX_AGE_SECONDS, Exemplars
from tests.programs import free_port, program
from tests.service.collector import Collector, collecting
from tests.service.processes import all_ready, process
from tests.service.serving import until

BOUNDS = (0.1, 1.0)
OPEN_METRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


def ids(number: int) -> dict[str, str]:
    return {"trace_id": f"{number:032x}", "span_id": f"{number:016x}"}


def open_metrics(registry: CollectorRegistry) -> str:
    text: bytes = choose_encoder(OPEN_METRICS["Accept"])[0](registry)
    return text.decode()


def buckets(text: str, name: str) -> list[Sample]:
    families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    return [each for family in families for each in family.samples if each.name == f"{name}_bucket"]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def seconds(registry: CollectorRegistry) -> Histogram:
    return Histogram("seconds", "Duration", ["route"], registry=registry, buckets=BOUNDS)


# ---- the newest of each bucket ----


def test_each_bucket_has_its_newest_exemplar(registry: CollectorRegistry, seconds: Histogram) -> None:
    exemplars = Exemplars(BOUNDS)
    for number, value in enumerate((0.05, 0.1, 0.5, 7.0)):
        seconds.labels("/a").observe(value)
        exemplars.note(seconds, ("/a",), value, ids(number))
    seconds.labels("/b").observe(0.5)  # one without a trace
    found = buckets(open_metrics(exemplars.over(registry)), "seconds")
    told = {(each.labels["route"], each.labels["le"]): each.exemplar for each in found}
    of_a = {le: exemplar for (route, le), exemplar in told.items() if route == "/a" and exemplar}
    assert {le: (each.labels, each.value) for le, each in of_a.items()} == {
        "0.1": (ids(1), 0.1),  # a bound belongs to the bucket below it
        "1.0": (ids(2), 0.5),
        "+Inf": (ids(3), 7.0),
    }
    assert all(each.timestamp and abs(float(each.timestamp) - time.time()) < 60 for each in of_a.values())
    assert not any(exemplar for (route, _), exemplar in told.items() if route == "/b")


def test_counts_do_not_change_and_the_classic_format_has_no_exemplars(
    registry: CollectorRegistry, seconds: Histogram
) -> None:
    exemplars = Exemplars(BOUNDS)
    seconds.labels("/a").observe(0.5)
    before = generate_latest(registry)
    exemplars.note(seconds, ("/a",), 0.5, ids(1))
    assert generate_latest(exemplars.over(registry)) == before


def test_old_exemplars_are_left_out(
    registry: CollectorRegistry, seconds: Histogram, monkeypatch: pytest.MonkeyPatch
) -> None:
    exemplars = Exemplars(BOUNDS)
    seconds.labels("/a").observe(0.5)
    exemplars.note(seconds, ("/a",), 0.5, ids(1))
    now = time.time()
    monkeypatch.setattr("service.exemplars.time.time", lambda: now + MAX_AGE_SECONDS + 1)
    assert "trace_id" not in open_metrics(exemplars.over(registry))


# ---- two workers, and a real Prometheus ----


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield collector


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[httpx.Client]:
    scrape = f"{{job_name: bertheads, scrape_interval: 1s, static_configs: [{{targets: ['{target}']}}]}}"
    (directory / "prometheus.yml").write_text(f"scrape_configs: [{scrape}]\n")
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus", package="prometheus"),
        f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/data",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    running = subprocess.Popen(command)
    try:
        with httpx.Client(base_url=f"http://{address}") as client:
            yield client
    finally:
        running.kill()
        running.wait()


def stored(client: httpx.Client) -> list[dict[str, Any]]:
    """Return the exemplars of the last minute that Prometheus knows."""
    query = {"query": "bertheads_request_seconds_bucket", "start": str(time.time() - 60), "end": str(time.time() + 60)}
    try:
        answer = client.get("/api/v1/query_exemplars", params=query)
    except httpx.TransportError:
        return []  # it does not listen yet
    return [{**series["seriesLabels"], **each} for series in answer.json()["data"] for each in series["exemplars"]]


@pytest.mark.slow
def test_prometheus_stores_exemplars_of_two_workers(bundle: Path, collector: Collector, tmp_path: Path) -> None:
    flags = ("--bundle", str(bundle), "--lanes", "1", "--workers", "2")
    with process(*flags) as (_, url), prometheus(tmp_path, url.removeprefix("http://")) as client:
        until(lambda: all_ready(url))

        def ask() -> list[dict[str, Any]]:
            assert httpx.post(f"{url}/classify/topic", json={"inputs": "the cat"}, timeout=60).status_code == 200
            return stored(client)

        until(ask)
        found = [each for each in stored(client) if each["route"] == "/classify/{head}" and each["head"] == "topic"]
        sent = [(each["labels"]["trace_id"], each["labels"]["span_id"]) for each in found]
        until(lambda: set(sent) <= {span.ids for span in collector.named("POST /classify/{head}")})
        assert found and all(0 < float(each["value"]) <= float(each["le"]) for each in found)
        page = httpx.get(f"{url}/metrics", headers=OPEN_METRICS, timeout=60)
        assert page.headers["Content-Type"].startswith("application/openmetrics-text")
        assert buckets(page.text, "bertheads_request_seconds")
        assert "trace_id" not in httpx.get(f"{url}/metrics", timeout=60).text
