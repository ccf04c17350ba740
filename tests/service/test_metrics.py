"""If this breaks, a dashboard shows nothing or nonsense, or a client can fill the memory with series."""

import asyncio
import re
import threading
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service import metrics as module
from service.metrics import Metrics, Shared
from tests.service.serving import Served, serving, until


@pytest.fixture
def always_new(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scrape makes a page."""
    monkeypatch.setattr(module, "MAX_AGE_SECONDS", 0.0)


def families(text: str) -> set[str]:
    """Names of the metrics in a page of OpenMetrics; raise ValueError for any other text."""
    return {family.name for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


def series(served: Served) -> set[str]:
    """Names and labels of all series."""
    text = served.client.get("/metrics").text
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}


def test_one_request_is_counted_once_everywhere(bundle: Path) -> None:
    with serving(bundle, lanes=1) as served:
        served.post("/classify/topic", ["the cat", "the dog " * 60])
        assert served.sample("requests_total", route="/classify/{head}", head="topic", status="200") == 1
        assert served.sample("request_seconds_count", route="/classify/{head}", head="topic") == 1
        for stage in ("tokenize", "queue", "encode", "decode"):
            assert served.sample("stage_seconds_count", stage=stage, head="topic") == 1
        assert served.sample("inputs_total", head="topic") == 2
        assert served.sample("confidence_count", head="topic") == 2
        assert served.sample("tokens_total", head="topic") == served.sample("batch_tokens_sum") == 4 + 64
        assert served.sample("batch_rows_sum") == 2
        assert served.sample("batches_total") == served.sample("batch_rows_count")
        assert served.sample("truncated_inputs_total", head="topic") == 1
        assert served.sample("truncated_tokens_total", head="topic") == 120 - 62
        assert served.sample("requests_in_flight") == served.sample("queue_rows") == served.sample("queue_tokens") == 0
        assert served.sample("lanes_alive") == served.sample("ready") == 1
        labels = {"bundle": "tiny", "version": "1.2.3", "precision": "fp32", "provider": "cpu"}
        assert served.sample("bundle_info", **labels) == 1


def test_each_limit_is_exposed_beside_what_it_limits(bundle: Path) -> None:
    with serving(bundle, lanes=2, max_queued_tokens=5000, max_connections=20) as served:
        served.client.get("/health/live")
        assert served.sample("lanes") == served.sample("lanes_alive") == 2
        assert served.sample("queue_tokens_limit") == 5000
        assert served.sample("connections_limit") == 20 and served.sample("connections") == 1
        resident = served.service.metrics.registry.get_sample_value("process_resident_memory_bytes") or 0
        assert 0 < resident < served.sample("memory_limit_bytes")
        served.client.close()
        until(lambda: served.sample("connections") == 0)


def test_raw_scores_do_not_count_as_confidence(served: Served) -> None:
    before = served.sample("confidence_count", head="sentiment")
    raw = served.answer("/classify/sentiment", "the cat sat", function_to_apply="none")
    inside = 0 <= raw[0][0]["score"] <= 1
    assert served.sample("confidence_count", head="sentiment") == before + inside


@pytest.mark.usefixtures("always_new")
def test_no_request_can_create_series(served: Served) -> None:
    def disturb(number: int) -> None:
        served.client.get(f"/path/{number}")
        served.client.get(f"/heads/none{number}")
        served.client.post(f"/classify/none{number}", json={"inputs": "a"})
        served.client.post("/classify", json={f"key{number}": 1})
        served.client.post("/classify", json={"inputs": "a"}, headers={"X-Request-Id": f"id{number}"})
        served.client.request("PATCH", "/classify")
        served.client.get("/docs/none" + str(number))

    disturb(0)
    series(served)  # a scrape is counted too
    before = series(served)
    for number in range(1, 6):
        disturb(number)
    assert series(served) == before
    assert not [name for name in before if re.search(r"none\d|path/|key\d", name)]


def test_every_series_is_ours(served: Served) -> None:
    assert all(name.startswith(("bertheads_", "process_")) for name in series(served))


def test_series_that_seldom_change_exist_from_the_start(served: Served) -> None:
    assert {
        'bertheads_rejected_total{reason="queue-full"}',
        'bertheads_dropped_total{reason="lane"}',
        'bertheads_truncated_inputs_total{head="nsp"}',
        'bertheads_confidence_count{head="nsp"}',
    } <= series(served)


def test_the_times_of_short_texts_fall_into_different_buckets() -> None:
    metrics = Metrics()
    for seconds in (0.0008, 0.0015, 0.0025, 0.0035, 0.0045):
        metrics.seconds.labels("/classify", "a").observe(seconds)
    text = metrics.expose().decode()
    counts = re.findall(r'request_seconds_bucket\{.*le="(?:0\.001|0\.002|0\.003|0\.004|0\.005)".*\} (\S+)', text)
    assert counts == ["1.0", "2.0", "3.0", "4.0", "5.0"]


@pytest.mark.parametrize(
    "name", ["queue_rows", "queue_tokens", "requests_in_flight", "ready", "lanes_alive", "batches_total"]
)
def test_metrics_without_labels_exist_from_the_start(name: str) -> None:
    assert f"bertheads_{name} 0.0" in Metrics().expose().decode()


def test_a_page_that_many_request_at_once_is_computed_once_on_a_thread() -> None:
    threads: list[str] = []

    def compute() -> int:
        threads.append(threading.current_thread().name)
        return len(threads)

    async def ask() -> list[int]:
        shared = Shared(compute)
        together = await asyncio.gather(*(shared.get() for _ in range(20)))
        return [*together, await shared.get()]

    assert asyncio.run(ask()) == [1] * 21
    assert len(threads) == 1 and threads[0] != threading.current_thread().name


@pytest.mark.usefixtures("always_new")
def test_an_old_page_is_computed_again_and_a_client_that_leaves_cancels_it_for_nobody() -> None:
    computed: list[int] = []
    go_on = threading.Event()

    def compute() -> int:
        assert go_on.wait(20)
        computed.append(0)
        return len(computed)

    async def ask() -> list[int]:
        shared = Shared(compute)
        leaving, staying = asyncio.ensure_future(shared.get()), asyncio.ensure_future(shared.get())
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        go_on.set()
        return [await staying, await shared.get()]

    assert asyncio.run(ask()) == [1, 2]


@pytest.mark.usefixtures("always_new")
def test_a_page_that_failed_is_computed_again() -> None:
    divisors = iter([0, 1])

    def compute() -> float:
        return 2 / next(divisors)

    async def ask() -> float:
        shared = Shared(compute)
        with pytest.raises(ZeroDivisionError):
            await shared.get()
        return await shared.get()

    assert asyncio.run(ask()) == 2


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text", "application/openmetrics-text"),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4", "application/openmetrics-text"),
        ("application/openmetrics-text; version=none", "text/plain"),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", "text/plain"),
    ],
)
def test_the_page_has_the_format_that_is_accepted(served: Served, accept: str, media: str) -> None:
    answer = served.client.get("/metrics", headers={"Accept": accept})
    assert answer.status_code == 200 and answer.headers["Content-Type"].startswith(media)
    ends = answer.text.endswith("# EOF\n")
    assert ends == media.startswith("application")
    assert not ends or {"bertheads_requests", "bertheads_ready"} <= families(answer.text)


def test_no_accept_header_can_make_pages_pile_up(served: Served) -> None:
    for number in range(20):
        header = {"Accept": f"application/openmetrics-text;version=1.0.{number}"}
        assert served.client.get("/metrics", headers=header).status_code == 200
    assert len(served.service.metrics._pages) == 2
