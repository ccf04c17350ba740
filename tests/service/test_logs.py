"""If this breaks, machines cannot read the log, errors lose their traceback, or a reader that stalls stops all."""

import json
import logging
import os
import re
import socket
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx
import pytest

from service import logs
from tests.service.processes import process, ready, total
from tests.service.serving import until


def exc_info() -> tuple[type[BaseException], BaseException, TracebackType | None]:
    try:
        raise ValueError("it broke")
    except ValueError as error:
        return (type(error), error, error.__traceback__)


def failed() -> logging.LogRecord:
    return logging.LogRecord("a", logging.ERROR, "f", 1, "failed %s", ("x\ny",), exc_info())


@pytest.fixture
def pipe() -> Iterator[tuple[int, logs.Lines]]:
    """The end of a pipe to read from, and a handler that writes to the other."""
    read, write = os.pipe()
    handler = logs.Lines(write)
    handler.setFormatter(logs.JsonFormatter())
    yield read, handler
    os.close(read)
    handler.close()
    os.close(write)


def written(read: int, handler: logs.Lines) -> list[dict[str, object]]:
    handler.flush()
    return [json.loads(line) for line in os.read(read, 1 << 20).decode().splitlines()]


def test_json_lines_hold_level_message_fields_and_traceback() -> None:
    record = failed()
    setattr(record, logs.FIELDS, {"status": 500})
    line = logs.JsonFormatter().format(record)
    parsed = json.loads(line)
    assert "\n" not in line
    assert (parsed["level"], parsed["message"], parsed["status"]) == ("error", "failed x\ny", 500)
    assert "ValueError: it broke" in parsed["traceback"] and parsed["time"].endswith("Z")


def test_text_lines_hold_fields_and_traceback() -> None:
    record = failed()
    setattr(record, logs.FIELDS, {"status": 500, "path": "/a\nb"})
    first, *rest = logs.TextFormatter().format(record).replace("failed x\ny", "failed").split("\n")
    assert first.endswith("ERROR   failed status=500 path='/a\\nb'") and "ValueError: it broke" in rest[-1]


@pytest.mark.usefixtures("unconfigured")
def test_the_chosen_level_and_format_apply(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", "json")
    logging.getLogger("service.x").info("no")
    logging.getLogger("service.x").warning("yes")
    logging.getLogger().handlers[0].flush()
    assert json.loads(capfd.readouterr().err)["message"] == "yes"


def test_an_error_keeps_its_traceback_on_the_way(pipe: tuple[int, logs.Lines]) -> None:
    read, handler = pipe
    handler.emit(failed())
    (line,) = written(read, handler)
    assert line["message"] == "failed x\ny" and "ValueError: it broke" in str(line["traceback"])
    assert "raise ValueError" in str(line["traceback"])


class Body:
    """What a request holds."""


def fail(body: Body) -> None:
    raise ValueError("it broke")


def test_a_traceback_that_waits_keeps_no_variables() -> None:
    body = Body()
    left = weakref.ref(body)
    try:
        fail(body)
    except ValueError as error:
        trace = (type(error), error, error.__traceback__)
        record = logging.LogRecord("a", logging.ERROR, "f", 1, "failed", (), trace)
    waiting = logs._without_frames(record)
    del body, record, trace
    assert left() is None and "it broke" in "".join(getattr(waiting, logs.TRACEBACK).format())


def test_a_record_that_cannot_be_formatted_is_reported_and_the_next_line_is_written(
    pipe: tuple[int, logs.Lines],
) -> None:
    read, handler = pipe
    handler.emit(logging.LogRecord("a", logging.INFO, "f", 1, "%d lines", ("no number",), None))
    handler.emit(logging.LogRecord("a", logging.INFO, "f", 1, "\ud800 next", (), None))
    handler.flush()
    first, second = os.read(read, 1 << 16).splitlines()
    assert b"%d lines" in first and json.loads(second)["message"] == "\ud800 next"


def test_what_finds_the_queue_full_is_dropped_counted_and_told(
    pipe: tuple[int, logs.Lines], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "MAX_FLUSH_SECONDS", 0.1)
    monkeypatch.setattr(logs, "MAX_WAITING", 256)
    read, handler = pipe
    counted: list[int] = []
    handler.on_drop = lambda: counted.append(1)
    full = logging.LogRecord("a", logging.INFO, "f", 1, "a" * 1000, (), None)
    for _ in range(4 * logs.MAX_WAITING):  # one MAX_WAITING waits, another may be what the thread is writing
        handler.emit(full)
    handler.flush()  # nobody reads, and it returns
    assert handler.dropped == len(counted) > logs.MAX_WAITING
    os.set_blocking(read, False)
    text = bytearray()

    def told() -> tuple[int, int]:
        """Return the lines that came, and those that are said to be dropped: each writing tells of new ones."""
        with suppress(BlockingIOError):
            text.extend(os.read(read, 1 << 20))
        return text.count(b"a" * 1000), sum(map(int, re.findall(rb"(\d+) lines were dropped", text)))

    until(lambda: told() == (4 * logs.MAX_WAITING - handler.dropped, handler.dropped))


@pytest.mark.usefixtures("unconfigured")
def test_a_closed_standard_error_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.configure("info", "text")
    logging.getLogger("service.x").error("lost")
    logging.getLogger().handlers[0].flush()


def test_a_closed_pipe_is_no_error() -> None:
    read, write = os.pipe()
    handler = logs.Lines(write)
    os.close(read)
    for _ in range(2):
        handler.emit(logging.LogRecord("a", logging.INFO, "f", 1, "lost", (), None))
        handler.flush()
    handler.close()
    os.close(write)


def test_a_pipe_that_does_not_block_loses_no_line(pipe: tuple[int, logs.Lines]) -> None:
    """Another process that shares the pipe can make it so."""
    read, handler = pipe
    os.set_blocking(handler._descriptor or 0, False)
    for number in range(1000):
        handler.emit(logging.LogRecord("a", logging.INFO, "f", 1, f"{number} {'a' * 500}", (), None))
    text = b""
    while text.count(b"\n") < 1000:
        text += os.read(read, 1 << 16)
    assert [int(json.loads(line)["message"].split()[0]) for line in text.splitlines()] == list(range(1000))


@pytest.mark.parametrize("formatter", [logs.JsonFormatter(), logs.TextFormatter()])
@pytest.mark.parametrize("character", ["a", "\x00", "\U0001f600"])
def test_a_line_has_a_bounded_length_and_says_that_it_was_cut(formatter: logging.Formatter, character: str) -> None:
    record = logging.LogRecord("a", logging.INFO, "f", 1, "begins %s ends", (character * 100_000,), exc_info())
    setattr(record, logs.FIELDS, {"status": 500, "path": character * 50_000, "none": None})
    line = formatter.format(record)
    assert len(line) <= logs.MAX_LINE + 100 and "characters were cut" in line and "begins" in line
    assert line.endswith("ValueError: it broke") or json.loads(line)["traceback"].endswith("ValueError: it broke")
    assert isinstance(formatter, logs.TextFormatter) or json.loads(line)["status"] == 500


REQUEST = b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.slow
def test_a_stalled_log_reader_stops_neither_answers_nor_shutdown(bundle: Path) -> None:
    with process("--bundle", str(bundle), "--lanes", "1") as (running, url):
        until(lambda: ready(url))
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port or 0), timeout=60) as connection:
            for _ in range(2 * logs.MAX_WAITING // 20):
                connection.sendall(20 * REQUEST)
                answers = 0
                while answers < 20:
                    part = connection.recv(1 << 20)
                    assert part
                    answers += part.count(b"HTTP/1.1 404 ")
        assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}, timeout=60).status_code == 200
        until(lambda: total(url, "log_lines_dropped") > 100)
        running.terminate()
        assert running.wait(60) == 0
