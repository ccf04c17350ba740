"""OpenTelemetry traces: on if the OTEL_* variables name a collector; otherwise they cost nothing.

FastAPI's own traces (`FastAPI(telemetry=...)`) are not used, because the server calls Middleware directly and so
bypasses FastAPI's entry point. FastAPI's spans would also lack stages and batches, and cost three times as much.
"""

import logging
import os
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.types import Scope

from service.logs import cut

if TYPE_CHECKING:
    from service.spans import Traces

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
"""The first of these variables that is set counts."""
TRACEPARENT = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?", re.DOTALL
)
"""The header of W3C Trace Context; the group is the trace id. Only versions after 00 may have more parts."""
SILENT_SECONDS = 60.0
"""Minimum seconds between two log lines of the same SDK module: an unreachable collector fails every few seconds."""
MAX_MESSAGE = 500


def client_trace(scope: Scope) -> dict[str, str]:
    """Return {"trace_id": ID} from a request's `traceparent`, or {} if that is missing, repeated or invalid."""
    found = [value for name, value in scope["headers"] if name == b"traceparent"]
    parent = TRACEPARENT.fullmatch(found[0].strip(b" \t")) if len(found) == 1 else None
    return {"trace_id": parent[1].decode()} if parent else {}


def open_traces() -> "Traces | None":
    """Return the traces, or None if they are off; log a warning if they are configured but cannot be turned on."""
    endpoint, protocol = _first(ENDPOINTS), _first(PROTOCOLS) or "http/protobuf"
    exporter = _value("OTEL_TRACES_EXPORTER") or "otlp"
    if not endpoint or exporter == "none" or _value("OTEL_SDK_DISABLED") == "true":
        return None
    try:
        if exporter != "otlp":
            raise ValueError(f"OTEL_TRACES_EXPORTER is {exporter!r}; set otlp or none")
        if protocol != "http/protobuf":
            raise ValueError(f"the protocol is {protocol!r}; set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, port 4318")
        if urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).hostname:
            raise ValueError("the endpoint is not a URL; set OTEL_EXPORTER_OTLP_ENDPOINT=http://HOST:4318")
        from service.spans import connect

        return connect()
    except ImportError as error:
        logger.warning("traces are off: %s; install the extra otel: pip install 'bertheads[otel]'", error)
    except Exception as error:  # a variable has an invalid value
        logger.warning("traces are off: %s", error)
    return None


class Rarely(logging.Handler):
    """Passes on one line per logger and SILENT_SECONDS, as a line of this module, with the number of dropped lines."""

    def __init__(self) -> None:
        super().__init__()
        self._silent_until: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on, without its traceback."""
        now, name = time.monotonic(), record.name
        if now < self._silent_until.get(name, 0.0):
            self._left_out[name] = self._left_out.get(name, 0) + 1
            return
        self._silent_until[name] = now + SILENT_SECONDS
        left_out = self._left_out.pop(name, 0)
        cause = f" ({record.exc_info[1]!r})" if record.exc_info else ""
        more = f" ({left_out} more lines of {name} were left out)" if left_out else ""
        logger.log(record.levelno, "%s%s", cut(record.getMessage() + cause, MAX_MESSAGE), more)


def quieten() -> None:
    """Keep the SDK from filling the log, and from logging what clients put into headers."""
    sdk = logging.getLogger("opentelemetry")
    sdk.handlers, sdk.propagate = [Rarely()], False
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)  # it would log invalid headers


def ended_in_time(thread: threading.Thread, patience: float) -> bool:
    """Start a thread and wait for it at most `patience` seconds; return whether it has ended."""
    thread.start()
    thread.join(patience)
    return not thread.is_alive()


def _value(name: str) -> str:
    return os.environ.get(name, "").strip().lower()


def _first(names: tuple[str, ...]) -> str:
    return next((value for name in names if (value := os.environ.get(name, "").strip())), "")
