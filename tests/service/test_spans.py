"""If this breaks, a trace is wrong about a request, or reveals what it must not hold."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.session import Session
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service import logs, spans
from service.errors import queue_full
from service.middleware import RequestInfo
from service.spans import _error_type, _server
from tests.service.bundles import HEADS, write_bundle
from tests.service.collector import ERROR, INTERNAL, SERVER, UNSET, Collector, Received, collecting
from tests.service.processes import all_ready, process, ready
from tests.service.serving import Served, serving, until
from tests.service.sockets import BODY, HEAD, LENGTH, answers, connected

STAGES = ["tokenize", "queue", "encode", "decode"]
TRACE, SENDER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT, UNSAMPLED = f"00-{TRACE}-{SENDER}-01", f"00-{TRACE}-{SENDER}-00"
SECRET = "words that nobody may see"


@pytest.fixture(scope="module")
def variables() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            patch.delenv(name)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield patch


@pytest.fixture(scope="module")
def collector(variables: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as collector:
        variables.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


@pytest.fixture(scope="module")
def traced(bundle: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Any:
    """A service of two bundles in this process."""
    heads = {"other": HEADS["topic"], "cross": HeadSpec("pair", ["relevant"])}
    second = write_bundle(tmp_path_factory.mktemp("second") / "second", tokenizer, heads, name="second")
    with serving(bundle, second, lanes=1, api_key="s3cret", max_queue_seconds=3600) as traced:
        yield traced


@pytest.fixture(autouse=True)
def forgotten(collector: Collector) -> None:
    collector.spans.clear()


class Held:
    """A session whose runs wait until they may go on."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.entered, self.go_on = threading.Event(), threading.Event()
        run = Session.run

        def held(session: Session, items: Any) -> Any:
            self.entered.set()
            assert self.go_on.wait(30)
            return run(session, items)

        patch.setattr(Session, "run", held)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    held = Held(monkeypatch)
    yield held
    held.go_on.set()


def broken(*_: Any) -> None:
    raise KeyError(SECRET)


def await_stages(collector: Collector, span: Received, count: int) -> dict[str, Received]:
    until(lambda: len(collector.stages_of(span)) >= count)
    return collector.stages_of(span)


def server_span(collector: Collector, name: str) -> Received:
    (span,) = collector.await_spans(name)
    return span


# ---- what is sent, over real processes ------------------------------------------------------------------------------


def test_a_request_its_stages_and_its_batch(bundle: Path, collector: Collector) -> None:
    with process("--bundle", str(bundle), "--lanes", "1") as (running, url):
        until(lambda: ready(url))
        headers = {"traceparent": PARENT, "tracestate": "a=1,b=2", "user-agent": "tests/1", "host": "localhost:81"}
        asked = {"inputs": [SECRET, "the cat " * 100]}
        answer = httpx.post(f"{url}/classify/topic?key=hidden", json=asked, headers=headers, timeout=60)
        assert answer.status_code == 200 and "traceresponse" not in answer.headers
        httpx.get(f"{url}/metrics", timeout=60)
        running.terminate()
        assert running.wait(60) == 0
        assert running.stderr
        log = running.stderr.read()
    span = server_span(collector, "POST /classify/{head}")
    assert (span.ids[0], span.parent, span.kind, span.status) == (TRACE, SENDER, SERVER, UNSET)
    assert span.state == "a=1,b=2" and not span.links
    tokens = span.attributes.pop("bertheads.tokens")
    assert span.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/classify/{head}",
        "url.path": "/classify/topic",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "tests/1",
        "server.address": "localhost",
        "server.port": 81,
        "bertheads.head": "topic",
        "bertheads.bundle": "tiny/1.2.3",
        "bertheads.items": 2,
        "bertheads.truncated": int(answer.headers["X-Truncated"]),
    }
    stages = collector.stages_of(span)
    assert list(stages) == STAGES and all(each.kind == INTERNAL for each in stages.values())
    assert all(each.ids[0] == TRACE and not each.attributes for each in stages.values())
    milliseconds = {
        name: float(part.split("dur=")[1]) for name, part in zip(STAGES, server_timing(answer), strict=True)
    }
    for name, stage in stages.items():
        assert span.began <= stage.began <= stage.ended <= span.ended
        assert (stage.ended - stage.began) / 1e6 == pytest.approx(milliseconds[name], abs=0.01)
    batches = collector.batches_of(span)
    for batch in batches:
        assert batch.ids[0] != TRACE and (batch.parent, batch.kind, batch.status) == ("", INTERNAL, UNSET)
        assert batch.links == [span.ids]
        assert batch.attributes.pop("bertheads.batch.rows") == 2 // len(batches)  # one, or one for each length
        tokens -= batch.attributes.pop("bertheads.batch.tokens")
        assert batch.attributes == {"bertheads.batch.lane": "lane-0", "bertheads.batch.heads": ["topic"]}
        assert stages["encode"].began - 1e6 < batch.began < batch.ended < stages["encode"].ended + 1e6
    assert tokens == 0
    assert span.resource["service.name"] == "bertheads" and span.resource["service.version"]
    assert span.resource["service.instance.id"]
    assert {each.name for each in collector.spans} == {span.name, "batch", *STAGES}  # probes and scrapes have none
    assert SECRET not in str(collector.spans) and "hidden" not in str(collector.spans)
    (line,) = [line for line in log.splitlines() if "/classify/topic" in line]
    assert f"trace_id='{TRACE}' span_id='{span.ids[1]}'" in line


def server_timing(answer: httpx.Response) -> list[str]:
    return answer.headers["Server-Timing"].split(", ")


@pytest.mark.slow
def test_two_workers_send_each_their_own(bundle: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.version=7,deployment.environment.name=test")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    with process("--bundle", str(bundle), "--lanes", "1", "--workers", "2") as (running, url):
        until(lambda: all_ready(url))
        asked = 0

        def both() -> bool:
            nonlocal asked
            asked += 1
            assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}, timeout=60).status_code == 200
            return len({span.resource["service.instance.id"] for span in collector.spans}) == 2

        until(both)
        running.terminate()
        assert running.wait(60) == 0
    requests = collector.await_spans("POST /classify", asked)
    assert len(requests) == asked and len({span.ids for span in requests}) == asked
    for span in requests:
        assert list(collector.stages_of(span)) == STAGES and len(collector.batches_of(span)) == 1
    resource = requests[0].resource
    assert (resource["service.name"], resource["service.version"]) == ("mine", "7")
    assert resource["deployment.environment.name"] == "test"
    assert collector.headers[-1]["Content-Encoding"] == "gzip"


# ---- each kind of end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "name", "status"),
    [
        ("GET", "/nothing?a=b", "GET", 404),
        ("PATCH", "/classify", "PATCH /classify", 405),
        ("HEAD", "/heads", "HEAD /heads", 200),
        ("OPTIONS", "/heads", "OPTIONS /heads", 405),
        ("PROPFIND", "/nothing", "HTTP", 404),
        ("GET", "/heads/none", "GET /heads/{head}", 404),
        ("POST", "/classify/none", "POST /classify/{head}", 404),
        ("POST", "/classify", "POST /classify", 415),
    ],
)
def test_a_client_error_is_no_error_of_the_server(
    traced: Served, collector: Collector, method: str, path: str, name: str, status: int
) -> None:
    answer = traced.client.request(method, path, content="x", headers={"Content-Type": "text/plain"})
    assert answer.status_code == status
    span = server_span(collector, name)
    assert (span.status, span.attributes["http.response.status_code"]) == (UNSET, status)
    assert "error.type" not in span.attributes and "bertheads.items" not in span.attributes
    assert span.attributes["http.request.method"] == (method if name != "HTTP" else "_OTHER")
    assert span.attributes.get("http.request.method_original") == (None if name != "HTTP" else method)
    assert span.attributes.get("http.route") == (name.partition(" ")[2] or None)


def test_a_request_without_a_key_has_a_span(traced: Served, collector: Collector) -> None:
    assert httpx.get(f"{traced.url}/heads").status_code == 401
    span = server_span(collector, "GET")
    assert (span.status, span.attributes["http.response.status_code"]) == (UNSET, 401)


def test_a_request_that_is_refused_before_it_is_parsed_has_a_span(
    traced: Served, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise queue_full("too much waits", 1)

    monkeypatch.setattr(traced.service.engine, "check_room", refuse)
    assert traced.post("/classify/topic", "a").status_code == 429
    span = server_span(collector, "POST /classify/{head}")
    assert (span.status, span.attributes["http.response.status_code"]) == (UNSET, 429)
    assert not collector.stages_of(span) and "error.type" not in span.attributes


def test_spans_say_where_a_deadline_passed(traced: Served, collector: Collector, held: Held) -> None:
    for path, stages in (("/classify/topic", STAGES[:3]), ("/classify/sentiment", STAGES[:2])):
        collector.spans.clear()
        answer = traced.client.post(path, json={"inputs": "a"}, headers={"X-Deadline-Ms": "100"})
        assert answer.status_code == 504
        span = server_span(collector, "POST /classify/{head}")
        assert (span.status, span.attributes["error.type"]) == (ERROR, "504")
        assert span.attributes["http.response.status_code"] == 504 and span.attributes["bertheads.items"] == 1
        found = await_stages(collector, span, len(stages))
        assert list(found) == stages and found[stages[-1]].ended - span.began > 50e6


def test_the_span_of_a_client_that_leaves_has_status_499(traced: Served, collector: Collector, held: Held) -> None:
    key = b"Authorization: Bearer s3cret\r\n"
    with connected(traced) as connection:
        connection.sendall(HEAD + key + LENGTH + BODY)
        assert held.entered.wait(30)
    span = server_span(collector, "POST /classify")
    assert (span.status, span.attributes["http.response.status_code"]) == (UNSET, 499)
    assert list(await_stages(collector, span, 3)) == STAGES[:3]
    held.go_on.set()
    until(lambda: collector.batches_of(span))


def test_a_failure_of_the_model_is_an_error_of_its_span(
    traced: Served, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Session, "run", fail)
    with lines() as written:
        answer = traced.client.post("/classify", json={"inputs": SECRET}, headers={"traceparent": PARENT})
        assert answer.status_code == 500
        span = server_span(collector, "POST /classify")
    assert (span.status, span.attributes["error.type"]) == (ERROR, "500")
    until(lambda: collector.batches_of(span))
    (batch,) = collector.batches_of(span)
    assert (batch.status, batch.attributes["error.type"]) == (ERROR, "RuntimeError")
    assert SECRET not in str(collector.spans)
    assert "failed in head" in written[0]  # on the lane
    written = [line for line in written if line.startswith("20")]
    assert len(written) == 2 and all(f"trace_id='{TRACE}' span_id='{span.ids[1]}'" in line for line in written)


def test_a_failure_of_the_service_is_an_error_of_its_span(
    traced: Served, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.routes.plan_task", broken)
    with lines() as written:
        assert traced.client.post("/classify", json={"inputs": "a"}, headers={"traceparent": PARENT}).status_code == 500
        span = server_span(collector, "POST /classify")
    assert (span.status, span.attributes["error.type"], collector.stages_of(span)) == (ERROR, "500", {})
    assert "KeyError" in "".join(written) and all(f"trace_id='{TRACE}'" in written[n] for n in (0, -1))


class lines:
    """What the service logs while the block runs, as it would write it."""

    def __enter__(self) -> list[str]:
        self._read, write = os.pipe()
        self._handler = logs.Lines(write)
        self._handler.setFormatter(logs.TextFormatter())
        self._written: list[str] = []
        for name in ("service.engine", "service.access"):
            logging.getLogger(name).addHandler(self._handler)
            logging.getLogger(name).setLevel(logging.INFO)
        return self._written

    def __exit__(self, *_: object) -> None:
        for name in ("service.engine", "service.access"):
            logging.getLogger(name).removeHandler(self._handler)
            logging.getLogger(name).setLevel(logging.NOTSET)
        self._handler.close()
        text = os.read(self._read, 1 << 20).decode()
        self._written += [line for line in text.splitlines() if line[:2] == "20" or "Error" in line[:20]]


def test_an_answer_that_breaks_off_is_an_error() -> None:
    for status, error, expected in ((200, "internal", "internal"), (0, "", "_OTHER"), (200, "", ""), (422, "x", "")):
        info = RequestInfo("id", 0.0, status=status, log={"error": error} if error else {})
        assert _error_type(info) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"", {}),
        (b"a.example", {"server.address": "a.example"}),
        (b"a.example:80", {"server.address": "a.example", "server.port": 80}),
        (b"[::1]:8000", {"server.address": "::1", "server.port": 8000}),
        (b"[::1]", {"server.address": "::1"}),
        (b"a:b", {"server.address": "a:b"}),
        (b"a:\xb2", {"server.address": "a:\xb2"}),
        (b"a:123456", {"server.address": "a"}),
    ],
)
def test_the_server_that_was_asked(host: bytes, expected: dict[str, Any]) -> None:
    assert _server(host) == expected


# ---- other routes, several heads, several requests ------------------------------------------------------------------

ROUTES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/models/topic:predict", {"instances": ["a"]}, "topic"),
    (
        "/v2/models/topic/infer",
        {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]},
        "topic",
    ),
    ("/classify", {"model": "topic", "input": ["a"]}, "topic"),
    ("/rerank", {"query": "a", "texts": ["b"]}, "cross"),
    ("/heads", {"inputs": "a", "heads": ["topic", "sentiment"]}, "topic,sentiment"),
]


@pytest.mark.parametrize(("path", "body", "head"), ROUTES)
def test_every_route_is_traced(
    traced: Served, collector: Collector, path: str, body: dict[str, Any], head: str
) -> None:
    answer = traced.client.post(path, json=body, headers={"traceparent": PARENT})
    assert answer.status_code == 200, answer.text
    until(lambda: collector.named("decode"))
    (span,) = [each for each in collector.spans if each.kind == SERVER]
    assert span.attributes["bertheads.head"] == head and span.attributes["bertheads.items"] >= 1
    assert span.name == f"POST {span.attributes['http.route']}"
    until(lambda: collector.batches_of(span))  # a lane sends it after the answer
    assert list(collector.stages_of(span)) == STAGES and len(collector.batches_of(span)) == 1


def test_heads_of_several_bundles_run_in_a_batch_each(traced: Served, collector: Collector) -> None:
    answer = traced.client.post("/heads", json={"inputs": ["a", "b"], "heads": ["topic", "other"]})
    assert answer.status_code == 200
    span = server_span(collector, "POST /heads")
    assert span.attributes["bertheads.bundle"] == "tiny/1.2.3, second/1.2.3"
    assert span.attributes["bertheads.items"] == 4
    until(lambda: len(collector.batches_of(span)) == 2)
    assert {str(each.attributes["bertheads.batch.heads"]) for each in collector.batches_of(span)} == {
        "['topic']",
        "['other']",
    }
    assert list(collector.stages_of(span)) == STAGES


def test_a_batch_links_to_the_sampled_requests_in_it(
    traced: Served, collector: Collector, held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "MAX_LINKS", 3)
    parents = [UNSAMPLED, *[PARENT] * 2, UNSAMPLED, *[PARENT] * 3]
    asking = [
        threading.Thread(
            target=lambda number=number, parent=parent: traced.client.post(
                "/classify", json={"inputs": "a " * (number + 1)}, headers={"traceparent": parent}
            )
        )
        for number, parent in enumerate(parents)
    ]
    asking[0].start()
    assert held.entered.wait(30)
    for thread in asking[1:]:
        thread.start()
    until(lambda: traced.service.engine.waiting == len(parents) - 1)
    held.go_on.set()
    for thread in asking:
        thread.join()
    requests = collector.await_spans("POST /classify", 5)
    batches = collector.await_spans("batch")
    assert len(requests) == 5 and all(span.ids[0] == TRACE for span in requests)
    assert sum(each.attributes["bertheads.batch.rows"] for each in batches) == 6  # that of the first has no span
    assert all(len(each.links) == min(3, each.attributes["bertheads.batch.rows"]) for each in batches[:1])
    assert {link for each in batches for link in each.links} <= {span.ids for span in requests}


# ---- the client's own trace -----------------------------------------------------------------------------------------


def test_an_unsampled_trace_has_no_spans_but_an_id_in_the_log(
    traced: Served, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.access")
    for given in (UNSAMPLED, PARENT):
        assert traced.client.post("/classify", json={"inputs": "a"}, headers={"traceparent": given}).status_code == 200
    (span,) = collector.await_spans("POST /classify")
    fields = [getattr(each, logs.FIELDS) for each in caplog.records if each.name == "service.access"]
    assert [each["trace_id"] for each in fields] == [TRACE, TRACE]
    assert [each.get("span_id") for each in fields] == [None, span.ids[1]]


def test_a_pipelined_request_is_not_taken_for_part_of_the_trace_before(traced: Served, collector: Collector) -> None:
    key = b"Authorization: Bearer s3cret\r\n"
    first = HEAD + key + b"traceparent: " + UNSAMPLED.encode() + b"\r\n" + LENGTH + BODY
    with lines() as written, connected(traced) as connection:
        connection.sendall(first + b"GET /heads/none HTTP/1.1\r\nHost: x\r\n" + key + b"traceparent: x\r\n\r\n")
        found = answers(connection)
        assert [next(found)[0] for _ in range(2)] == [200, 404]
        (span,) = collector.await_spans("GET /heads/{head}")
    assert TRACE in written[0] and TRACE not in written[1] and span.ids[0] in written[1]


HOSTILE: list[list[tuple[str, str]]] = [
    [("traceparent", "00-" + "f" * 50_000)],
    [("traceparent", PARENT)] * 100,
    [("traceparent", PARENT), ("tracestate", "a" * 50_000)],
    [("traceparent", PARENT), ("tracestate", ",".join(f"k{n}=v" for n in range(3000)))],
    [("traceparent", PARENT), ("tracestate", ",=,;=\t,a=1,a=2,\xe9=\xe9")],
    *[[("traceparent", PARENT), ("tracestate", f"{SECRET[:5]}=={n}")] for n in range(3)],
    [("traceparent", PARENT), ("baggage", ",".join(f"k{n}={'v' * 30}" for n in range(180)))],
    [("baggage", f"{SECRET}," * 100)],
    [("traceparent", PARENT)] + [("tracestate", f"k{n}=v") for n in range(200)],
    [("traceparent", "\xff\xfe"), ("b3", "x"), ("user-agent", "\xff" * 10_000)],
]


@pytest.mark.parametrize("given", HOSTILE, ids=range(len(HOSTILE)))
def test_no_header_fails_a_request(
    traced: Served, collector: Collector, caplog: pytest.LogCaptureFixture, given: list[tuple[str, str]]
) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in given]
    raw += [(b"authorization", b"Bearer s3cret")]
    answer = httpx.post(f"{traced.url}/classify", json={"inputs": "a"}, headers=raw)
    assert answer.status_code == 200
    span = server_span(collector, "POST /classify")
    assert len(str(span.attributes.get("user_agent.original", ""))) <= spans.MAX_AGENT
    assert SECRET[:5] not in caplog.text and "s3cret" not in str(collector.spans)


def test_a_propagator_that_fails_costs_the_parent_alone(
    traced: Served, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opentelemetry.propagate.extract", broken)
    headers = {"traceparent": PARENT}
    assert traced.client.get("/heads", headers=headers).status_code == 200
    span = server_span(collector, "GET /heads")
    assert span.parent == "" and span.ids[0] != TRACE


def test_a_connection_that_is_cut_ends_its_span(traced: Served, collector: Collector) -> None:
    with connected(traced) as connection, suppress(OSError):
        connection.sendall(HEAD + b"Authorization: Bearer s3cret\r\n" + LENGTH + BODY[:5])
        connection.shutdown(socket.SHUT_RDWR)
    assert server_span(collector, "POST /classify").status == UNSET
