"""If this breaks, traces are off where an operator switched them on, cost where nobody did, or a collector that is away
fills the log or delays the service."""

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service import logs, traces
from service.logs import FIELDS
from service.traces import Rarely, client_trace, open_traces
from tests.programs import free_port
from tests.service.processes import process, ready
from tests.service.serving import until

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{ID}-00f067aa0ba902b7-01"
LATER = "cc" + PARENT[2:]
VALID = [PARENT, f" {PARENT}\t", LATER, LATER + "-more-of-it", LATER + "-", PARENT[:-2] + "00", PARENT[:-2] + "ff"]
INVALID = [
    "",
    ID,
    PARENT + "-x",
    PARENT + "-",
    PARENT + "0",
    LATER + "x",
    "ff" + PARENT[2:],
    "FF" + PARENT[2:],
    PARENT.upper(),
    PARENT.replace("f0", "F0"),
    PARENT.replace("4b", "4g"),
    "00-" + "0" * 32 + PARENT[35:],
    PARENT[:36] + "0" * 16 + "-01",
    PARENT[:-1],
    f"{PARENT},{PARENT}",
]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def address() -> str:
    """Where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


# ---- the header of W3C Trace Context, with and without the SDK ------------------------------------------------------


def headers(*values: str) -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", value.encode()) for value in values]


@pytest.mark.parametrize("given", VALID)
def test_the_trace_of_a_client_is_read(given: str) -> None:
    assert client_trace({"headers": headers(given)}) == {"trace_id": ID}


@pytest.mark.parametrize("given", INVALID)
def test_an_invalid_header_names_no_trace(given: str) -> None:
    assert client_trace({"headers": headers(given)}) == {}


def test_a_repeated_header_names_no_trace() -> None:
    assert client_trace({"headers": headers(PARENT, PARENT)}) == {}


@pytest.mark.parametrize("given", [(value,) for value in VALID + INVALID] + [(PARENT, PARENT)])
def test_the_sdk_reads_the_same(given: tuple[str, ...]) -> None:
    from service.spans import _sender

    parent = _sender(headers(*given))[1]
    found = {"trace_id": f"{parent.trace_id:032x}"} if parent else {}
    assert found == client_trace({"headers": headers(*given)})


# ---- on and off -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {ENDPOINT: " "},
        {ENDPOINT: "http://x", "OTEL_SDK_DISABLED": "TRUE"},
        {ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_off_is_silent(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_traces() is None and not caplog.records


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({ENDPOINT: "collector:4318"}, "http://HOST:4318"),
        ({ENDPOINT: "http://x", "OTEL_TRACES_EXPORTER": "zipkin"}, "'zipkin'; set otlp or none"),
        ({ENDPOINT: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc'; set OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({ENDPOINT: "http://x", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "'http/json'"),
        ({ENDPOINT: "http://x", "OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "max_queue_size must be a positive integer"),
    ],
)
def test_what_cannot_be_on_says_why_once(
    variables: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert open_traces() is None
    (record,) = caplog.records
    assert record.getMessage().startswith("traces are off: ") and sentence in record.getMessage()


@pytest.mark.parametrize(
    "missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"]
)
def test_a_missing_sdk_names_the_extra(
    missing: str, address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENDPOINT, address)
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "service.spans", raising=False)
    assert open_traces() is None
    (record,) = caplog.records
    assert "pip install 'bertheads[otel]'" in record.getMessage()


@pytest.mark.parametrize("name", [ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_either_endpoint_switches_on(name: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, address)
    found = open_traces()
    assert found
    found.close(1.0)


def test_off_imports_nothing() -> None:
    """FastAPI imports the API by itself; the SDK, and what needs it, would take a tenth of a second."""
    program = (
        "import sys; from service.app import create_app; from service.settings import Settings; create_app(Settings());"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))"
        " or name == 'service.spans'])"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


# ---- the log --------------------------------------------------------------------------------------------------------


@pytest.fixture
def sdk(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """A logger like one of the SDK's, whose lines pass a handler that starts empty."""
    logger = logging.getLogger("opentelemetry.test")
    logger.handlers, logger.propagate = [Rarely()], False
    yield logger
    logger.handlers = []


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what reached the service's log."""
    return [record.getMessage() for record in caplog.records if record.name == "service.traces"]


def test_lines_of_the_sdk_pass_rarely(
    sdk: logging.Logger, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1000):
        sdk.warning("queue full %d", number)
    assert said(caplog) == ["queue full 0"]
    monkeypatch.setattr(traces, "SILENT_SECONDS", -1.0)
    sdk.handlers[0]._silent_until.clear()  # type: ignore[attr-defined]
    sdk.warning("a" * 10_000)
    last = said(caplog)[-1]
    assert len(last) < traces.MAX_MESSAGE + 200 and last.endswith(
        "(999 more lines of opentelemetry.test were left out)"
    )


def test_an_error_of_the_sdk_comes_without_its_traceback(sdk: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("it broke")
    except ValueError:
        sdk.exception("failed")
    assert said(caplog) == ["failed (ValueError('it broke'))"] and not caplog.records[0].exc_info


def test_lines_of_a_request_have_its_trace() -> None:
    read, write = os.pipe()
    handler = logs.Lines(write)
    handler.setFormatter(logs.TextFormatter())
    token = logs.TRACE.set({"trace_id": ID, "span_id": "b7"})
    try:
        for fields in ({}, {FIELDS: {"a": 1}}):
            handler.emit(logging.makeLogRecord({"msg": "said", **fields}))
    finally:
        logs.TRACE.reset(token)
    handler.emit(logging.makeLogRecord({"msg": "said"}))
    handler.close()
    first, second, third = os.read(read, 4096).decode().splitlines()
    assert first.endswith(f"said trace_id='{ID}' span_id='b7'") and second.endswith("span_id='b7' a=1")
    assert third.endswith("said")


# ---- a collector that is away ---------------------------------------------------------------------------------------


def lines_of_the_sdk(log: str) -> list[str]:
    return [line for line in log.splitlines() if "batch" in line or "collector" in line]


def test_an_unreachable_collector_is_told_of_rarely_and_holds_up_nothing(
    bundle: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINT, address)
    for name, value in {"SCHEDULE_DELAY": "20", "MAX_QUEUE_SIZE": "8", "MAX_EXPORT_BATCH_SIZE": "4"}.items():
        monkeypatch.setenv(f"OTEL_BSP_{name}", value)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    with process("--bundle", str(bundle), "--lanes", "1") as (running, url):
        until(lambda: ready(url))
        for _ in range(50):
            assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}, timeout=60).status_code == 200
        assert ready(url)
        running.terminate()
        assert running.wait(60) == 0
        assert running.stderr
        found = lines_of_the_sdk(running.stderr.read())
    assert 1 <= len(found) <= 4, found  # one per module of the SDK, and one at the end


def test_a_collector_that_never_answers_does_not_hold_up_the_end(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        with process("--bundle", str(bundle), "--lanes", "1", "--drain-timeout", "1") as (running, url):
            until(lambda: ready(url))
            assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}, timeout=60).status_code == 200
            running.terminate()
            assert running.wait(60) == 0
            assert running.stderr
            assert "the collector did not accept the last spans within 1.0 s" in running.stderr.read()
