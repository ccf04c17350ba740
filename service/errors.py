"""The errors of service/, by HTTP status, and their response bodies: problem details (RFC 9457)."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from models.errors import BertheadsError, InputError

MEDIA_TYPE = "application/problem+json"
KSERVE = re.compile(r"/v[12](/|$)")
"""Paths whose clients (kserve) read the message in the field `error`, and only of the type application/json."""
DETECTOR = "/api/v1/text/contents"
"""A path whose clients read `code` and `message` (the orchestrator of FMS Guardrails)."""
REJECTIONS = (401, 403, 413, 429, 503)
"""Statuses of requests that were refused before any work; a metric counts them by code."""


class SettingsError(BertheadsError):
    """Raised at the start if the settings are wrong or cannot be applied."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of a request: `inputs[3].question`, `parameters.top_k`, or a header's name."""

    field: str
    message: str


class ServiceError(Exception):
    """Base of every error with an HTTP status; `code` distinguishes errors with the same status."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"

    def __init_subclass__(cls, code: str, status: int | None = None) -> None:
        cls.status, cls.code = status or cls.status, code

    def __init__(self, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [FieldError(field, detail)] if field else []
        self.headers = dict(headers or {})


class BadRequest(ServiceError, status=400, code="malformed"):
    """The body is not JSON, or a header makes no sense."""


class Unauthorized(ServiceError, status=401, code="unauthorized"):
    """The key is missing or wrong."""


class Forbidden(ServiceError, status=403, code="forbidden"):
    """The request comes from a page of another site, or names a host that the service does not know."""


class NotFound(ServiceError, status=404, code="not-found"):
    """There is no such head or path; the answer names those that exist."""


class MethodNotAllowed(ServiceError, status=405, code="method-not-allowed"):
    """The path exists, for another method."""


class SlowRequest(ServiceError, status=408, code="slow-request"):
    """The body did not arrive before the deadline."""


class Conflict(ServiceError, status=409, code="conflict"):
    """Another bundle is being loaded."""


class TooLarge(ServiceError, status=413, code="body-too-large"):
    """The body is larger than the limit."""


class UnsupportedMedia(ServiceError, status=415, code="unsupported-media-type"):
    """The body is not declared as JSON, or is encoded in a way that is not supported."""


class Unprocessable(ServiceError, status=422, code="unacceptable-input"):
    """An input or a parameter is not acceptable; the answer names each wrong field."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = list(errors)


class QueueFull(ServiceError, status=429, code="queue-full"):
    """More work waits than could be answered in time; see Retry-After."""


class HeadTooLarge(ServiceError, status=431, code="head-too-large"):
    """The lines before the body are longer than the limit."""


class ClientGone(ServiceError, status=499, code="client-gone"):
    """The client disconnected. 499 is nginx's status for this; no client receives it, but logs and metrics show it."""


class InferenceFailed(ServiceError, status=500, code="inference-failed"):
    """The encoder or the head failed on this input."""


class Unavailable(ServiceError, status=503, code="unavailable"):
    """The service is loading, draining, or out of lanes."""

    def __init__(self, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        # Some clients try again at once, and without limit, if nothing says how long to wait.
        super().__init__(detail, field=field, headers={"Retry-After": "1", **(headers or {})})


@contextmanager
def renaming(rename: Callable[[str], str]) -> Iterator[None]:
    """Rename the fields in errors of a task, from those of the task's own route to those of this request."""
    try:
        yield
    except InputError as error:
        raise InputError(rename(error.field), error.message) from None
    except Unprocessable as error:
        raise Unprocessable([FieldError(rename(each.field), each.message) for each in error.errors]) from None


def require_none(obstacles: Sequence[str]) -> None:
    """Raise Unavailable with these obstacles, if there are any."""
    if obstacles:
        raise Unavailable("; ".join(obstacles))


SHUTTING_DOWN = "the service is shutting down; send the request to another replica"


class DeadlinePassed(ServiceError, status=504, code="deadline-passed"):
    """The deadline passed; the answer says where: in parse, tokenize, queue, encode, or decode."""

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(
            f"the deadline of {seconds:g} s passed in {where}; send fewer or shorter inputs, or try again later"
        )
        self.where = where
        self.seconds = seconds


def queue_full(reason: str, seconds: float) -> QueueFull:
    """Return the error for a request that may be sent again after this many seconds."""
    wait = str(max(1, math.ceil(seconds)))
    return QueueFull(f"{reason}; try again after Retry-After seconds", headers={"Retry-After": wait})


def as_service_error(raised: Exception, scope: Scope) -> ServiceError:
    """Return the error that the client gets for an exception that was raised while its request was handled."""
    if isinstance(raised, ServiceError):
        return raised
    if isinstance(raised, InputError):
        return Unprocessable([FieldError(raised.field, raised.message)])
    path = scope["path"][:200]
    if isinstance(raised, HTTPException) and raised.status_code == 405:
        routes = [route for route in scope["app"].routes if route.matches(scope)[0] is not Match.NONE]
        allowed = ", ".join(sorted({method for route in routes for method in route.methods}))
        sentence = f"{path} does not take {scope['method']}; send {allowed}"
        return MethodNotAllowed(sentence, headers={"Allow": allowed})
    if isinstance(raised, HTTPException):
        known = [route.path for route in scope["app"].routes if "{" not in route.path]
        bare = path.rstrip("/")
        if any(route.matches({**scope, "path": bare})[0] is not Match.NONE for route in scope["app"].routes):
            known = [bare]
        return NotFound(f"there is no {path}; {did_you_mean(path, known, 'GET /docs lists what there is')}")
    return ServiceError("the service failed on this request; the log has the reason under the answer's request id")


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return "did you mean …?" if `name` is similar to a known name, otherwise `otherwise`; case does not matter."""
    by_small = {each.lower(): each for each in known}
    nearest = difflib.get_close_matches(name[:80].lower(), by_small, n=1)
    return f"did you mean {by_small[nearest[0]]}?" if nearest else otherwise


def media_type(path: str) -> str:
    """Return the content type of an error, for clients of `path`."""
    return "application/json" if KSERVE.match(path) else MEDIA_TYPE


def problem(error: ServiceError, request_id: str, path: str = "") -> bytes:
    """Return the response body for `error`, for clients of `path`.

    `errors` holds messages, each with its field if it has one; clients of the Hugging Face Inference API show these.
    """
    members = {
        "type": f"urn:bertheads:error:{error.code}",
        "title": error.code.replace("-", " ").capitalize(),
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
        "errors": [{"field": e.field, "message": e.message} for e in error.errors] or [{"message": error.detail}],
    }
    return to_json(_for_clients(error, path) | members)


def _for_clients(error: ServiceError, path: str) -> dict[str, object]:
    if path == DETECTOR:
        return {"code": error.status, "message": error.detail}
    return {"error": error.detail} if KSERVE.match(path) else {}


EXAMPLES: list[ServiceError] = [
    BadRequest("the body is not JSON: EOF while parsing a string at line 1 column 14; correct it", field="body"),
    Unauthorized("there is no key; send the header Authorization: Bearer KEY", field="Authorization"),
    Forbidden(
        "Origin is 'https://other.example', which is not allowed to use this service; "
        "to allow it, add its origin to the setting cors_origins (BERTHEADS_CORS_ORIGINS)",
        field="Origin",
    ),
    NotFound("there is no head 'sentimant' for /classify; there are sentiment; did you mean sentiment?", field="head"),
    SlowRequest("the body did not arrive within the deadline of 30 s", field="body"),
    Conflict("another bundle is being loaded; wait until that has ended, then try again"),
    TooLarge(
        "the body of 4194305 bytes exceeds the limit of 4194304 bytes; send fewer or shorter inputs", field="body"
    ),
    UnsupportedMedia(
        "the body is declared as text/plain; send JSON with Content-Type: application/json", field="Content-Type"
    ),
    Unprocessable([FieldError("parameters.top_k", "is 0, but input should be greater than or equal to 1")]),
    QueueFull("131072 tokens wait, and 12 more would exceed 131072; try again after Retry-After seconds"),
    InferenceFailed("the model failed on this input; the log has the reason"),
    Unavailable("loading: warming bundle 1 of 1, models/starter; ask /health/ready"),
    DeadlinePassed("queue", 0.001),
]
"""An example of each error; service/error_examples.py has a request that causes it on each route."""
