"""A collector for tests: takes OTLP over HTTP, as the one of OpenTelemetry does, and keeps the spans."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.service.serving import until

SERVER, INTERNAL = 2, 1
UNSET, ERROR = 0, 2
Ids = tuple[str, str]
"""Of a trace and of a span in it."""


@dataclass(frozen=True)
class Received:
    """A span as it was received."""

    name: str
    ids: Ids
    parent: str
    kind: int
    status: int
    began: int
    ended: int
    attributes: dict[str, Any]
    links: list[Ids]
    resource: dict[str, Any]
    state: str


@dataclass
class Collector:
    """The spans that were received."""

    url: str = ""
    spans: list[Received] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def stages_of(self, span: Received) -> dict[str, Received]:
        return {each.name: each for each in self.spans if each.parent == span.ids[1]}

    def batches_of(self, span: Received) -> list[Received]:
        return [each for each in self.named("batch") if span.ids in each.links]

    def await_spans(self, name: str, count: int = 1) -> list[Received]:
        until(lambda: len(self.named(name)) >= count)
        return self.named(name)


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, str(kind))
    return [plain(each) for each in found.values] if kind == "array_value" else found


def decode(body: bytes) -> list[Received]:
    """Return the spans of a body of POST /v1/traces."""
    return [
        Received(
            span.name,
            (span.trace_id.hex(), span.span_id.hex()),
            span.parent_span_id.hex(),
            span.kind,
            span.status.code,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            {each.key: plain(each.value) for each in span.attributes},
            [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            {each.key: plain(each.value) for each in of_resource.resource.attributes},
            span.trace_state,
        )
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Listen on a free port until the block ends."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
            collector.headers.append(dict(self.headers))
            collector.spans += decode(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        collector.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield collector
        finally:
            server.shutdown()
