"""Spans that follow OpenTelemetry's conventions for HTTP servers. Imported by service/traces.py, only if traces are on.

A span is created when its request ends, from times that are measured anyway, and only if the sampler chose the request.
So other requests cost nothing, and a span costs a third of one that records from its start. Spans contain no texts, no
keys, and no query strings.
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from starlette.types import Scope

from service.queue import Item
from service.traces import ended_in_time, quieten

if TYPE_CHECKING:
    from service.middleware import RequestInfo

logger = logging.getLogger(__name__)

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
PROBES = ("/health/", "/v2/health/", "/metrics")
"""Prefixes of paths without spans: probes and scrapes come every few seconds and are not interesting."""
MAX_LINKS = 128
"""Maximum links of a batch's span: the specification's default."""
MAX_PATH, MAX_AGENT, MAX_HOST = 512, 256, 255
MAX_FLUSH_SECONDS = 3.0
"""Maximum seconds that an exit waits for a collector that does not answer."""
ROOT = Context()
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
FAILED = Status(StatusCode.ERROR)
UNSET = Status(StatusCode.UNSET)
RawHeaders = Iterable[tuple[bytes, bytes]]


class _Headers(Getter[RawHeaders]):
    """Reads the headers of a request, except baggage: nothing here uses it, and parsing it can be slow."""

    def get(self, carrier: RawHeaders, key: str) -> list[str] | None:
        name = key.lower().encode("latin-1")
        found = [value for each, value in carrier if each == name]
        return [b",".join(found).decode("latin-1")] if found and name != b"baggage" else None

    def keys(self, carrier: RawHeaders) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


HEADERS = _Headers()


class _Resource(Resource):
    """A resource with a cached hash: the exporter hashes it for every span, for which the SDK dumps it as JSON."""

    def __init__(self, made: Resource) -> None:
        super().__init__(made.attributes, made.schema_url)
        self._once = super().__hash__()

    def __hash__(self) -> int:
        return self._once


@dataclass(frozen=True, slots=True)
class Span:
    """The span of a request in progress."""

    context: SpanContext
    parent: SpanContext | None
    anchor: int
    """Unix time in nanoseconds at which time.monotonic was 0, measured when the request began."""

    def at(self, moment: float) -> int:
        """Convert seconds of time.monotonic to Unix time in nanoseconds."""
        return self.anchor + round(moment * 1e9)


class Traces:
    """Creates spans and passes them to the SDK, whose thread sends them; the methods only fill its bounded queue."""

    def __init__(self, provider: TracerProvider, processor: BatchSpanProcessor) -> None:
        self._provider = provider
        self._processor = processor
        provider.add_span_processor(processor)
        self._sampler = provider.sampler
        self._ids = provider.id_generator
        scope = InstrumentationScope("bertheads", version("bertheads"), SCHEMA)
        self._span = partial(ReadableSpan, resource=provider.resource, instrumentation_scope=scope)
        fields = propagate.get_global_textmap().fields
        self._fields = frozenset(name.lower().encode() for name in {*fields, "b3"} - {"baggage"})
        """Headers in which clients send a trace context; the B3 propagator does not list the header b3."""

    def begin(self, info: "RequestInfo", scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """Set the trace to which a request belongs, and give it a span if the sampler chooses it."""
        context, parent = ROOT, None
        if not self._fields.isdisjoint(headers):
            context, parent = _sender(scope["headers"])
        if parent:
            info.trace = {"trace_id": format_trace_id(parent.trace_id)}
        if scope["path"].startswith(PROBES):
            return
        trace_id = parent.trace_id if parent else self._ids.generate_trace_id()
        chosen = self._sampler.should_sample(context, trace_id, "", SpanKind.SERVER)  # all that SDK samplers use
        if chosen.decision is Decision.RECORD_AND_SAMPLE:
            own = SpanContext(trace_id, self._ids.generate_span_id(), False, SAMPLED, chosen.trace_state)
            info.span = Span(own, parent, _anchor())
            info.trace = {"trace_id": format_trace_id(trace_id), "span_id": format_span_id(own.span_id)}

    def end(self, info: "RequestInfo", scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """Send the span of a request that ends now, and the spans of its stages."""
        span: Span = info.span
        ended = span.at(time.monotonic())
        attributes = _attributes(info, scope, headers)
        method = attributes["http.request.method"]
        name = f"{'HTTP' if method == '_OTHER' else method} {attributes.get('http.route', '')}".rstrip()
        status = FAILED if "error.type" in attributes else UNSET
        about = {"parent": span.parent, "attributes": attributes, "kind": SpanKind.SERVER, "status": status}
        self._send(name, span.context, span.at(info.started), ended, **about)
        for stage, (began, over) in info.stages.items():
            self._send(stage, self._child(span.context), span.at(began), span.at(over), parent=span.context)

    def batch(self, lane: str, items: Sequence[Item], outcomes: Sequence[Any], times: tuple[float, float]) -> None:
        """Send the span of a batch, with links to those of its requests that have spans."""
        traces = [job.trace for job in dict.fromkeys(item.job for item in items) if "span_id" in job.trace]
        if not traces:
            return
        attributes: dict[str, Any] = {
            "bertheads.batch.rows": len(items),
            "bertheads.batch.tokens": sum(item.length for item in items),
            "bertheads.batch.lane": lane,
            "bertheads.batch.heads": sorted({item.job.calls[index][0] for item in items for index in item.indices}),
        }
        error = next((each for each in outcomes if isinstance(each, Exception)), None)
        if error:
            attributes["error.type"] = type(error).__qualname__
        own = SpanContext(self._ids.generate_trace_id(), self._ids.generate_span_id(), False, SAMPLED)
        span, links = Span(own, None, _anchor()), [_link(trace) for trace in traces[:MAX_LINKS]]
        began, ended = map(span.at, times)
        status = FAILED if error else UNSET
        self._send("batch", own, began, ended, attributes=attributes, links=links, status=status)

    def close(self, patience: float) -> None:
        """Send the queued spans, for at most `patience` seconds; those that the collector does not accept are lost."""
        patience = min(patience, MAX_FLUSH_SECONDS)
        if not ended_in_time(threading.Thread(target=self._provider.shutdown, daemon=True), patience):
            logger.warning("the collector did not accept the last spans within %.1f s; they are lost", patience)

    def _child(self, parent: SpanContext) -> SpanContext:
        return SpanContext(parent.trace_id, self._ids.generate_span_id(), False, SAMPLED, parent.trace_state)

    def _send(self, name: str, context: SpanContext, began: int, ended: int, **rest: Any) -> None:
        """Queue a span; its times are in Unix nanoseconds."""
        self._processor.on_end(self._span(name, context, start_time=began, end_time=ended, **rest))


def connect() -> Traces:
    """Return the traces for the collector in the environment; raise the SDK's error if a variable is wrong."""
    quieten()
    ours = {"service.name": "bertheads", "service.version": version("bertheads")}
    given = OTELResourceDetector().detect().attributes  # attributes passed to create() would override these
    resource = _Resource(Resource.create({name: value for name, value in ours.items() if name not in given}))
    return Traces(TracerProvider(resource=resource, shutdown_on_exit=False), BatchSpanProcessor(OTLPSpanExporter()))


def _anchor() -> int:
    return time.time_ns() - round(time.monotonic() * 1e9)


def _sender(headers: RawHeaders) -> tuple[Context, SpanContext | None]:
    """Return the context in a client's headers, and the client's span; None if that is missing or invalid."""
    try:
        context = propagate.extract(headers, ROOT, HEADERS)
    except Exception as error:  # from a propagator in OTEL_PROPAGATORS
        logger.debug("the trace context of a request cannot be read: %r", error)
        return ROOT, None
    parent = get_current_span(context).get_span_context()
    return context, parent if parent.is_valid else None


def _link(trace: Mapping[str, str]) -> Link:
    return Link(SpanContext(int(trace["trace_id"], 16), int(trace["span_id"], 16), False, SAMPLED))


def _attributes(info: "RequestInfo", scope: Scope, headers: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Return the attributes of a server span (opentelemetry.io/docs/specs/semconv/http/http-spans)."""
    method = scope["method"]
    found: dict[str, Any] = {
        "http.request.method": method if method in METHODS else "_OTHER",
        "url.path": scope["path"][:MAX_PATH],
        "url.scheme": scope["scheme"],
        "network.protocol.version": scope["http_version"],
        **_server(headers.get(b"host", b"")),
    }
    if method not in METHODS:
        found["http.request.method_original"] = method[:MAX_HOST]
    if info.route != "other":
        found["http.route"] = info.route
    if client := scope.get("client"):
        found["client.address"] = client[0]
    if agent := headers.get(b"user-agent"):
        found["user_agent.original"] = agent[:MAX_AGENT].decode("latin-1")
    if info.status:
        found["http.response.status_code"] = info.status
    if error := _error_type(info):
        found["error.type"] = error
    if head := info.log.get("head"):
        found["bertheads.head"] = head
    return found | info.attributes


def _server(host: bytes) -> dict[str, Any]:
    """Return the server name and port in the header Host."""
    name, _, port = host[: MAX_HOST + 6].decode("latin-1").rpartition(":")
    if not name or not port.isdecimal():
        name, port = name + _ + port, ""
    found: dict[str, Any] = {"server.address": name.strip("[]")} if name else {}
    return found | ({"server.port": int(port)} if port and len(port) < 6 else {})


def _error_type(info: "RequestInfo") -> str:
    """Return the server's error, if any: a status of 500 or more, or the error that interrupted a response."""
    if info.status >= 500:
        return str(info.status)
    broken_off = not info.status or (info.status < 400 and "error" in info.log)
    return str(info.log.get("error", "_OTHER")) if broken_off else ""
