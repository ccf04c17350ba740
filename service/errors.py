"""Errors of service/ and how they are answered: problem details (RFC 9457).

ServiceError
├── BadRequest          400
├── Unauthorized        401
├── Forbidden           403
├── NotFound            404
├── MethodNotAllowed    405
├── SlowRequest         408
├── TooLarge            413
├── UnsupportedMedia    415
├── Unprocessable       422
├── QueueFull           429
├── HeadTooLarge        431
├── ClientGone          499
├── InferenceFailed     500
├── Unavailable         503
└── DeadlinePassed      504

SettingsError            a setting contradicts another, or a bundle; ends the start
"""

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from models.errors import BertheadsError, InputError

MEDIA_TYPE = "application/problem+json"
KSERVE = re.compile(r"/v[12](/|$)")
"""Paths whose clients read the sentence under the key `error`, and only of JSON without parameters (kserve)."""
DETECTOR = "/api/v1/text/contents"
"""A path whose clients read `code` and `message` (the orchestrator of FMS Guardrails)."""
REJECTIONS = (401, 403, 413, 429, 503)
"""Statuses of requests on which nothing was spent; a metric counts them by code."""


class SettingsError(BertheadsError):
    """Raised while starting, when the settings cannot be served."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field of a request: `inputs[3].question`, `parameters.top_k`, a header's name."""

    field: str
    message: str


class ServiceError(Exception):
    """Base of every error that has a status; `code` tells apart what shares a status."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    code: ClassVar[str] = "internal"
    example: ClassVar[tuple[str, str]] = ("", "something is wrong here; the log has it under the request id")
    """Field and sentence, for the documentation."""

    def __init__(self, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [FieldError(field, detail)] if field else []
        self.headers = dict(headers or {})


class BadRequest(ServiceError):
    """The body is not JSON, or a header makes no sense."""

    status, title, code = 400, "Malformed request", "malformed"
    example = ("body", "the body is not JSON: EOF while parsing a string at line 1 column 9")


class Unauthorized(ServiceError):
    """The key is missing or wrong."""

    status, title, code = 401, "No or wrong key", "unauthorized"
    example = ("Authorization", "there is no key; send the header Authorization: Bearer KEY")


class Forbidden(ServiceError):
    """The request comes from a page of another site, or names a host that the service does not know."""

    status, title, code = 403, "Not allowed from there", "forbidden"
    example = ("Origin", "https://other.example is not an allowed origin; add it to --cors-origins")


class NotFound(ServiceError):
    """There is no such head or path; the answer names those that exist."""

    status, title, code = 404, "Not found", "not-found"
    example = ("head", "there is no head 'sentimant' for /classify; there are sentiment; did you mean sentiment?")


class MethodNotAllowed(ServiceError):
    """The path exists, for another method."""

    status, title, code = 405, "Method not allowed", "method-not-allowed"
    example = ("", "/classify does not take GET; send POST")


class SlowRequest(ServiceError):
    """The body did not arrive before the deadline."""

    status, title, code = 408, "Request too slow", "slow-request"
    example = ("body", "the body did not arrive within the deadline of 30 s")


class TooLarge(ServiceError):
    """The body is larger than the limit."""

    status, title, code = 413, "Body too large", "body-too-large"
    example = ("body", "the body of 5000000 bytes exceeds the limit of 4194304 bytes; send fewer or shorter inputs")


class UnsupportedMedia(ServiceError):
    """The body is not declared as JSON, or is encoded in a way that is not supported."""

    status, title, code = 415, "Unsupported media type", "unsupported-media-type"
    example = ("Content-Type", "the body is declared as text/plain; send JSON with Content-Type: application/json")


class Unprocessable(ServiceError):
    """An input or a parameter is not acceptable; the answer names each field at fault."""

    status, title, code = 422, "Unacceptable input", "unacceptable-input"
    example = ("parameters.top_k", "is 0, but input should be greater than or equal to 1")

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = list(errors)


class QueueFull(ServiceError):
    """More work waits than could be answered in time; see Retry-After."""

    status, title, code = 429, "Queue full", "queue-full"
    example = ("", "131072 tokens wait, and 12 more would exceed 131072; come back after Retry-After seconds")


class HeadTooLarge(ServiceError):
    """The lines before the body are longer than the limit."""

    status, title, code = 431, "Head too large", "head-too-large"


class ClientGone(ServiceError):
    """The status is nginx's; nobody receives it, but logs and metrics count it."""

    status, title, code = 499, "Client gone", "client-gone"


class InferenceFailed(ServiceError):
    """The encoder or the head failed on this input."""

    status, title, code = 500, "Inference failed", "inference-failed"
    example = ("", "the model failed on this input; the log has the reason")


class Unavailable(ServiceError):
    """The service is loading, draining, or out of lanes."""

    status, title, code = 503, "Not available", "unavailable"
    example = ("", "loading: warming bundle 1 of 1; ask /health/ready")


SHUTTING_DOWN = "the service is shutting down; send the request to another replica"


class DeadlinePassed(ServiceError):
    """The deadline passed; the answer says where: in parse, tokenize, queue, encode, or decode."""

    status, title, code = 504, "Deadline passed", "deadline-passed"
    example = ("", "the deadline of 30 s passed in queue; send fewer or shorter inputs, or come back later")

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(
            f"the deadline of {seconds:g} s passed in {where}; send fewer or shorter inputs, or come back later"
        )
        self.where = where


def queue_full(reason: str, seconds: float) -> QueueFull:
    """Return the refusal of a request that may come back in so many seconds."""
    wait = str(max(1, math.ceil(seconds)))
    return QueueFull(f"{reason}; come back after Retry-After seconds", headers={"Retry-After": wait})


def as_service_error(raised: Exception, scope: Scope) -> ServiceError:
    """Return what a client is told of anything that was raised while it was served."""
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
        return NotFound(f"there is no {path}; {_nearest_route(scope, path)}")
    return ServiceError("something is wrong here; the log has it under the request id of this answer")


def _nearest_route(scope: Scope, path: str) -> str:
    known = [route.path for route in scope["app"].routes if "{" not in route.path]
    nearest = difflib.get_close_matches(path, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else "GET /docs lists what there is"


def media_type(path: str) -> str:
    """Return the content type of an error, for clients of `path`."""
    return "application/json" if KSERVE.match(path) else MEDIA_TYPE


def problem(error: ServiceError, request_id: str, path: str = "") -> bytes:
    """Return the body of the answer to `error`, for clients of `path`."""
    errors = [{"field": e.field, "message": e.message} for e in error.errors] or [{"message": error.detail}]
    return json.dumps(members(type(error), error.detail, errors, request_id, path)).encode()


def members(
    error: type[ServiceError], detail: str, errors: list[dict[str, str]], request_id: str, path: str = ""
) -> dict[str, object]:
    """Return the members of problem details, for clients of `path`.

    `errors` has messages, with a field where there is one: clients of the Hugging Face Inference API show these.
    """
    return _for_clients(error, detail, path) | {
        "type": f"urn:bertheads:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": detail,
        "request_id": request_id,
        "errors": errors,
    }


def _for_clients(error: type[ServiceError], detail: str, path: str) -> dict[str, object]:
    if path == DETECTOR:
        return {"code": error.status, "message": detail}
    return {"error": detail} if KSERVE.match(path) else {}
