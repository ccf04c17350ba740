"""Logging: lines for people, or JSON lines for machines. Inputs are never logged.

Lines go into a bounded queue, and a thread writes them to standard error. So a stalled reader cannot block the service:
while the queue is full, records are dropped and counted.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from queue import SimpleQueue
from traceback import TracebackException

FIELDS = "fields"
"""Attribute of a record with further fields of its line: logger.info("…", extra={FIELDS: {"status": 200}})."""
TRACEBACK = "traceback"
"""Attribute of a record with its traceback, not yet formatted."""
TRACE: ContextVar[Mapping[str, str]] = ContextVar("TRACE", default={})  # noqa: B039  # it is never modified
"""Trace ids of the current request; they are added to the fields of each of its lines."""
MAX_LINE = 1 << 13
"""Maximum characters of a line, or of a record with its traceback; longer ones lose their middle."""
MAX_WAITING = 1 << 12
"""Maximum lines in the queue: two seconds of an access log at full load."""
GATHER_SECONDS = 0.05
"""Lines are collected for this time and written together: waking the thread for each one cost 1/6 of the throughput."""
MAX_FLUSH_SECONDS = 1.0
"""Maximum seconds that an exit waits for a stalled reader."""


class JsonFormatter(logging.Formatter):
    """One object per line; a traceback is one of its strings."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if text := record.exc_text or (record.exc_info and self.formatException(record.exc_info)):
            line["traceback"] = text
        return _dump(line)


class TextFormatter(logging.Formatter):
    """Time, level, message, and fields as key=value; strings are quoted and escaped, so no client can forge lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return cut(super().format(record), MAX_LINE)

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, FIELDS, {})
        return " ".join([super().formatMessage(record), *(f"{key}={value!r}" for key, value in fields.items())])


class Lines(logging.Handler):
    """Passes lines to a thread that writes them to a file descriptor (None: to nowhere).

    Lines are formatted by the caller, because a busy event loop leaves other threads little time. Tracebacks take
    longer, so the thread formats them.
    """

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self.dropped = 0
        """Number of records that were dropped because the queue was full."""
        self.on_drop: Callable[[], object] = lambda: None
        self._told = 0
        self._descriptor = descriptor
        self._waiting: SimpleQueue[str | logging.LogRecord | threading.Event | None] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._writer.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, without any system call."""
        if trace := TRACE.get():
            setattr(record, FIELDS, {**trace, **getattr(record, FIELDS, {})})
        if self._waiting.qsize() >= MAX_WAITING:
            self.dropped += 1
            self.on_drop()
        elif record.exc_info and record.exc_info[1]:
            self._waiting.put(_without_frames(record))
        else:
            self._waiting.put(self._line(record))

    def flush(self) -> None:
        """Wait until the queued lines are written, at most MAX_FLUSH_SECONDS."""
        written = threading.Event()
        self._waiting.put(written)
        written.wait(MAX_FLUSH_SECONDS)

    def close(self) -> None:
        """Write the queued lines, and end the thread."""
        self._waiting.put(None)
        self._writer.join(MAX_FLUSH_SECONDS)
        super().close()

    def _write_all(self) -> None:
        entries: list[str | logging.LogRecord | threading.Event | None] = []
        while None not in entries:
            entries = [self._waiting.get()]
            time.sleep(GATHER_SECONDS)
            entries += [self._waiting.get() for _ in range(self._waiting.qsize())]
            lines = [self._line(each) if isinstance(each, logging.LogRecord) else each for each in entries]
            text = "".join(line for line in (*lines, self._missing()) if isinstance(line, str))
            self._write(text.encode(errors="backslashreplace"))
            for entry in entries:
                if isinstance(entry, threading.Event):
                    entry.set()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            if found := getattr(record, TRACEBACK, None):
                record.exc_text = "".join(found.format()).rstrip()
            return self.format(record) + "\n"
        except Exception as error:  # the arguments do not fit the message's format
            return f"a record of {record.name} cannot be formatted ({error!r}): {cut(str(record.msg), 200)}\n"

    def _missing(self) -> str:
        """Return a line that reports the records dropped since the last such line, or an empty string."""
        count, self._told = self.dropped - self._told, self.dropped
        record = logging.LogRecord(__name__, logging.WARNING, "", 0, "%d lines were dropped", (count,), None)
        return self._line(record) if count else ""

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self._descriptor is not None:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another process that shares the pipe made it non-blocking
                select.select([], [self._descriptor], [])
            except OSError:
                return  # the reader has gone


def _without_frames(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record whose traceback keeps no local variables: they would keep whole requests in memory."""
    assert record.exc_info and record.exc_info[1]
    alone = logging.makeLogRecord(record.__dict__ | {"exc_info": None})
    setattr(alone, TRACEBACK, TracebackException(*record.exc_info, lookup_lines=False, compact=True))
    return alone


def cut(text: str, limit: int) -> str:
    """Return about `limit` characters of a text; a note in the middle says how many were cut."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} […{len(text) - limit // 2 * 2} characters were cut…] {text[len(text) - limit // 2 :]}"


def _dump(line: dict[str, object]) -> str:
    limit = MAX_LINE
    while len(text := json.dumps(line, default=str)) > MAX_LINE and limit:
        line = {key: value if isinstance(value, int | float) else cut(str(value), limit) for key, value in line.items()}
        limit //= 2
    return text


def configure(level: str, form: str) -> None:
    """Send all records to standard error; the access log is the service's own, not uvicorn's."""
    # Our lines do not show file, thread and process, so records need not collect them (Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = Lines(_standard_error())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def count_drops(count: Callable[[], object]) -> None:
    """Call `count` for each record that is dropped from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Lines):
            handler.on_drop = count


def _standard_error() -> int | None:
    try:
        return sys.stderr.fileno()
    except (AttributeError, OSError):  # closed before the start: another file may have its number by now
        return None
