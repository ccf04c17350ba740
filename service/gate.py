"""What every request passes: its id, the key, the headers of its answer, metrics, the access log, and the last resort.

Plain ASGI: a handler behind it still sees the connection itself, and so notices when its client leaves.
"""

import asyncio
import logging
import random
import re
import secrets
import time
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import (
    REJECTIONS,
    SHUTTING_DOWN,
    ServiceError,
    Unauthorized,
    Unavailable,
    as_service_error,
    media_type,
    problem,
)
from service.logs import FIELDS
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger("service.access")

TRACE = "bertheads.trace"
"""Where a request's scope keeps its Trace."""
OPEN = frozenset({"/", "/docs", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json"})
"""Answered without a key, beside /health and (unless protected) /metrics: they tell nothing of heads or inputs."""
HEALTH = ("/health/", "/v2/health/")
"""Beginnings of paths that probes ask for, without a key."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
QUIET = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Routes whose success is logged at debug level only: probes come every few seconds."""
REFUSED = 429
"""Logged at debug level too: a line for each of thousands a second would take the time that others need."""


@dataclass(slots=True)
class Trace:
    """What is known of a request, for its answer, its log line and its metrics."""

    request_id: str
    started: float
    route: str = "other"
    """The template of its route; "other" for a path that has none."""
    head: str = ""
    status: int = 0
    log: dict[str, object] = field(default_factory=dict)
    """Further fields of its log line."""


def trace_of(scope: Scope) -> Trace:
    """Return the trace that the gate put into a scope."""
    trace: Trace = scope[TRACE]
    return trace


class Gate:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else b""
        self._open = OPEN if settings.protect_metrics else OPEN | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        trace = Trace(given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}", time.monotonic())
        scope[TRACE] = trace

        draining = scope["app"].state.service.draining  # then its client does well to connect to another replica

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.status = message["status"]
                answer = MutableHeaders(scope=message)
                answer["X-Request-Id"] = trace.request_id
                if draining:
                    answer["Connection"] = "close"
            await send(message)

        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope  # the server leaves the body out
        try:
            with self.metrics.in_flight.track_inprogress():
                await self._answer(asked, receive, send_traced, headers)
        finally:
            route = asked.get("route")  # FastAPI's; the task routes, which are not, name themselves
            trace.route = getattr(route, "path", trace.route)
            self._record(scope, trace)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        try:
            self._check_key(scope["path"], headers.get("authorization", ""))
            await self.app(scope, receive, send)
        except asyncio.CancelledError:  # the time for draining is over
            if trace_of(scope).status:
                raise
            await send_problem(scope, send, Unavailable(SHUTTING_DOWN, headers={"Connection": "close"}))
        except Exception as raised:
            await self._refuse(scope, send, raised)

    async def _refuse(self, scope: Scope, send: Send, raised: Exception) -> None:
        """Turn what was raised into an answer: the one place that does, for all routes."""
        trace, error = trace_of(scope), as_service_error(raised, scope)
        if type(error) is ServiceError:
            logger.error("request %s failed", trace.request_id, exc_info=raised)
        if trace.status:
            raise raised  # the answer has begun: all that is left is to break the connection off
        if error.status in REJECTIONS:
            self.metrics.rejected.labels(error.code).inc()
        trace.log["error"] = error.code
        await send_problem(scope, send, error)

    def _check_key(self, path: str, authorization: str) -> None:
        if not self._key or path in self._open or path.startswith(HEALTH):
            return
        scheme, _, key = authorization.partition(" ")
        right = secrets.compare_digest(key.strip(" \t").encode("latin-1"), self._key)
        if scheme.lower() != "bearer" or not right:
            sentence = "the key is wrong" if authorization else "there is no key"
            raise Unauthorized(
                f"{sentence}; send the header Authorization: Bearer KEY",
                field="Authorization",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _record(self, scope: Scope, trace: Trace) -> None:
        seconds = time.monotonic() - trace.started
        metrics = self.metrics
        metrics.series(metrics.requests, trace.route, trace.head, str(trace.status)).inc()
        metrics.series(metrics.seconds, trace.route, trace.head).observe(seconds)
        quiet = trace.status == REFUSED or (trace.route in QUIET and trace.status < 400)
        level = logging.DEBUG if quiet else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": trace.status,
                "ms": round(seconds * 1000, 2),
                "client": (scope.get("client") or ("",))[0],
                "request_id": trace.request_id,
                **trace.log,
            }
            logger.log(level, "request", extra={FIELDS: fields})


async def send_problem(scope: Scope, send: Send, error: ServiceError) -> None:
    """Answer with problem details."""
    body = problem(error, trace_of(scope).request_id, scope["path"])
    headers = {"content-type": media_type(scope["path"]), "content-length": str(len(body)), **error.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
