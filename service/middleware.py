"""The steps common to all requests: request id, API key, response headers, metrics, access log, unhandled errors.

Plain ASGI: the handlers receive the connection's own messages, so they notice when a client disconnects.
"""

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.task_registry import ROUTES
from service.errors import (
    REJECTIONS,
    SHUTTING_DOWN,
    BadRequest,
    DeadlinePassed,
    ServiceError,
    Unauthorized,
    Unavailable,
    as_service_error,
    media_type,
    problem,
)
from service.keys import Guesses, Keys
from service.logs import FIELDS, TRACE
from service.metrics import Metrics
from service.origins import Origins, RawHeaders
from service.queue import Deadline
from service.settings import Settings
from service.traces import client_trace

if TYPE_CHECKING:
    from service.spans import Traces

logger = logging.getLogger("service.access")

INFO = "bertheads.request"
"""Key of the RequestInfo in a request's scope."""
OPEN = frozenset({"/", "/docs", "/openapi.json"})
"""Paths that need no key, like /health and (unless protected) /metrics: they reveal nothing about heads or inputs."""
DEADLINE_HEADER = "x-deadline-ms"
ASKED_OF_HEADS = {*ROUTES, "explain"}
"""First path segments of the routes for which room in the queue is checked here; other routes check it themselves."""
HEALTH = ("/health/", "/v2/health/")
"""Path prefixes of the probes, which need no key."""
SINGLE = frozenset(
    {b"authorization", b"host", b"origin", b"content-type", b"content-encoding", b"x-deadline-ms", b"x-bundle"}
)
"""Headers with one value. If one were sent twice, a proxy could read another value than the service."""
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
QUIET = frozenset({"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"})
"""Routes whose successful requests are logged at debug level only: probes come every few seconds."""
REFUSED = 429
"""Logged at debug level too: under overload, logging each 429 would starve other requests."""

DEFAULT_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
"""Headers of every response, unless it sets its own."""
CLOSE = (b"connection", b"close")
GUESS_PAUSE = 0.5
"""Seconds to delay the 401 for a client that has sent many wrong keys."""
DRAIN_PAUSE = 1.0
"""Seconds to delay a 503 while draining: some clients retry at once, without limit."""
MAX_PAUSED = 1024


@dataclass(slots=True)
class RequestInfo:
    """What is known about a request; used for its response, log line and metrics."""

    request_id: str
    started: float
    route: str = "other"
    """The template of its route; "other" for a path that has none."""
    head: str = ""
    status: int = 0
    deadline: Deadline | None = None
    """Set once the queue has room for it; None means that this has not been checked."""
    key: str = ""
    """The name of its key; empty where no key was required."""
    weight: float = 1.0
    """Its key's share of the computing time, relative to other keys."""
    log: dict[str, object] = field(default_factory=dict)
    """Further fields of its log line."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Ids for log lines and exemplars: trace_id if it belongs to a trace, and span_id if its span is recorded."""
    span: Any = None
    """Its span, a service.spans.Span, if it has one."""
    attributes: dict[str, object] = field(default_factory=dict)
    """Further attributes of its span."""
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """When each stage began and ended, in seconds of time.monotonic."""

    @property
    def server_timing(self) -> str:
        """The value of the header Server-Timing: the duration of each stage in milliseconds."""
        return ", ".join(f"{stage};dur={(ended - began) * 1000:.2f}" for stage, (began, ended) in self.stages.items())


def start_info(headers: Mapping[bytes, bytes]) -> RequestInfo:
    """Return the info of a new request, with the id from its X-Request-Id or a random one."""
    given = headers.get(b"x-request-id")
    known = given is not None and REQUEST_ID.fullmatch(given)
    return RequestInfo(given.decode() if given and known else f"{random.getrandbits(128):032x}", time.monotonic())


def info_of(scope: Scope) -> RequestInfo:
    """Return the info that the middleware put into a scope."""
    info: RequestInfo = scope[INFO]
    return info


def check_repeated(headers: RawHeaders) -> None:
    """Raise BadRequest if a header with one value is sent twice."""
    names = [name for name, _ in headers if name in SINGLE]
    if twice := next((name.decode() for name in names if names.count(name) > 1), ""):
        field = twice.title()
        raise BadRequest(f"the request has {names.count(twice.encode())} headers {field}; send one", field=field)


class Pauses:
    """Delays responses, at most MAX_PAUSED at a time."""

    def __init__(self) -> None:
        self._paused = 0

    async def pause(self, seconds: float) -> bool:
        """Wait; return False at once if too many responses wait, or if the server is cutting connections."""
        task = asyncio.current_task()
        if self._paused >= MAX_PAUSED or (task and task.cancelling()):
            return False
        self._paused += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            pass  # the connection is about to be cut: answer now
        finally:
            self._paused -= 1
        return True


class Middleware:
    """The outermost middleware. The server calls it instead of `whole`, the FastAPI app, whose own call costs more."""

    def __init__(
        self,
        app: ASGIApp,
        whole: FastAPI,
        settings: Settings,
        metrics: Metrics,
        traces: "Traces | None" = None,
        tasks: Mapping[str, ASGIApp] = MappingProxyType({}),
    ) -> None:
        """`tasks` maps the path template of a task to the app that answers POST; `app` serves all other routes."""
        self.app = app
        self._tasks = tasks
        self.whole = whole
        self.metrics = metrics
        self._traces = traces
        self._keys = Keys(
            settings.api_keys_file, settings.api_key.get_secret_value() if settings.api_key else None, metrics
        )
        self._guesses = Guesses()
        self._pauses = Pauses()
        self._origins = Origins(settings)
        self._open = OPEN if settings.protect_metrics else OPEN | {"/metrics"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self.whole
        if scope["type"] != "http":
            await self._live(scope, receive, send)
            return
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scope[INFO] = info = start_info(headers)
        service = self.whole.state.service
        if self._traces:
            self._traces.begin(info, scope, headers)
        elif b"traceparent" in headers:
            info.trace = client_trace(scope)
        if info.trace or TRACE.get():  # TRACE may still hold the previous request of the same connection
            TRACE.set(info.trace)

        async def send_noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                draining = service.draining
                if draining and message["status"] == 503 and not scope["path"].startswith(HEALTH):
                    await self._pauses.pause(DRAIN_PAUSE)
                info.status = message["status"]
                message = {**message, "headers": self._headers(message, info, headers.get(b"origin"), draining)}
            await send(message)

        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope  # the server leaves the body out
        try:
            with self.metrics.in_flight.track_inprogress():
                await self._answer(asked, receive, send_noted, headers)
        finally:
            info.route = getattr(asked.get("route"), "path", info.route)
            self._record(scope, info)
            if self._traces and info.span:
                self._traces.end(info, scope, headers)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Watch the file of keys while the app runs (lifespan events)."""
        watching = asyncio.create_task(self._keys.watch())
        try:
            await self.app(scope, receive, send)
        finally:
            watching.cancel()

    def _headers(self, message: Message, info: RequestInfo, origin: bytes | None, draining: bool) -> RawHeaders:
        """Return the response's own headers plus the common ones."""
        given = message.get("headers", ())
        names = dict(given)
        headers = [*given, (b"x-request-id", info.request_id.encode()), *self._origins.headers_for(origin)]
        headers += [header for header in DEFAULT_HEADERS if header[0] not in names]
        if draining and b"connection" not in names:
            headers.append(CLOSE)  # so that the client connects to another replica
        return headers

    async def _answer(self, scope: Scope, receive: Receive, send: Send, headers: Mapping[bytes, bytes]) -> None:
        try:
            app = await self._admit(scope, headers)
            await (self._task(scope, headers) or app)(scope, receive, send)
        except asyncio.CancelledError:  # the time for draining is over
            if info_of(scope).status:
                raise
            await send_problem(scope, send, Unavailable(SHUTTING_DOWN, headers={"Connection": "close"}))
        except Exception as raised:
            await self._refuse(scope, send, raised)

    async def _refuse(self, scope: Scope, send: Send, raised: Exception) -> None:
        """Turn an exception into a response. This is the only place that does so, for all routes."""
        info, error = info_of(scope), as_service_error(raised, scope)
        if type(error) is ServiceError:
            logger.error("request %s failed", info.request_id, exc_info=raised)
        info.log["error"] = error.code
        if info.status:
            raise raised  # the response has begun: the only way left to report the error is to cut the connection
        if error.status in REJECTIONS:
            self.metrics.series(self.metrics.rejected, error.code).inc()
        if isinstance(error, DeadlinePassed) and error.seconds < self.whole.state.service.settings.deadline:
            self.metrics.client_deadlines.inc()
        await send_problem(scope, send, error)

    async def _admit(self, scope: Scope, headers: Mapping[bytes, bytes]) -> ASGIApp:
        """Return the app that answers this request; raise BadRequest, Forbidden or Unauthorized."""
        path, method = scope["path"], scope["method"]
        if len(headers) < len(scope["headers"]):
            check_repeated(scope["headers"])
        open_to_all = path.startswith(HEALTH)
        if not open_to_all:
            self._origins.check_host(headers)
        if self._origins.is_preflight(method, headers):
            return self._origins.answer_preflight
        if not self._keys.required:
            self._origins.check_site(method, headers)
        elif not open_to_all and path not in self._open:
            await self._check_key(scope, headers.get(b"authorization", b""))
        return self.app

    def _task(self, scope: Scope, headers: Mapping[bytes, bytes]) -> ASGIApp | None:
        """Return the app for a task route, or None for any other route; raise QueueFull under overload.

        This look-up is cheaper than matching all routes. The app matches or refuses the others.
        """
        task, slash, head = scope["path"][1:].partition("/")
        if task not in ASKED_OF_HEADS or scope["method"] != "POST":
            return None
        service, info = self.whole.state.service, info_of(scope)
        info.route = f"/{task}/{{head}}" if head else f"/{task}"
        if DEADLINE_HEADER.encode() not in headers:
            seconds = service.settings.deadline
            info.deadline = Deadline(info.started + seconds, seconds)
            service.engine.check_room(0, info.deadline)
        if slash and (not head or "/" in head):
            return None
        scope["path_params"] = {"head": head} if head else {}
        return self._tasks.get(info.route)

    async def _check_key(self, scope: Scope, authorization: bytes) -> None:
        scheme, _, secret = authorization.partition(b" ")
        key = self._keys.find(secret.strip(b" \t"))
        if key is None or scheme.lower() != b"bearer":
            raise await self._refusal(scope, authorization)
        info = info_of(scope)
        info.key = info.log["key"] = key.name
        info.weight = key.weight

    async def _refusal(self, scope: Scope, authorization: bytes) -> Unauthorized:
        """Return the error for a missing or wrong key, after a pause for a client that has sent many wrong ones."""
        headers = {"WWW-Authenticate": "Bearer"}
        if authorization and self._guesses.note((scope.get("client") or ("",))[0]):
            if not await self._pauses.pause(GUESS_PAUSE):
                headers["Connection"] = "close"  # too many wait: make each guess cost a new connection instead
        sentence = f"{_what_is_wrong(authorization)}; send the header Authorization: Bearer KEY"
        return Unauthorized(sentence, field="Authorization", headers=headers)

    def _record(self, scope: Scope, info: RequestInfo) -> None:
        seconds = time.monotonic() - info.started
        metrics = self.metrics
        metrics.series(metrics.requests, info.route, info.head, str(info.status)).inc()
        metrics.series(metrics.seconds, info.route, info.head).observe(seconds)
        if info.span:
            metrics.exemplars.note(metrics.seconds, (info.route, info.head), seconds, info.trace)
        if info.key and info.status:
            metrics.series(metrics.key_requests, info.key, f"{info.status // 100}xx").inc()
        quiet = info.status == REFUSED or (info.route in QUIET and info.status < 400)
        level = logging.DEBUG if quiet else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": info.status,
                "ms": round(seconds * 1000, 2),
                "client": (scope.get("client") or ("",))[0],
                "request_id": info.request_id,
                **info.trace,
                **info.log,
            }
            logger.log(level, "request", extra={FIELDS: fields})


def _what_is_wrong(authorization: bytes) -> str:
    scheme, _, key = authorization.strip().partition(b" ")
    if scheme and scheme.lower() != b"bearer":
        return "Authorization does not begin with Bearer"
    return "the key is wrong" if key else "there is no key"


async def send_problem(scope: Scope, send: Send, error: ServiceError) -> None:
    """Answer with problem details."""
    body = problem(error, info_of(scope).request_id, scope["path"])
    headers = {"content-type": media_type(scope["path"]), "content-length": str(len(body)), **error.headers}
    raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
