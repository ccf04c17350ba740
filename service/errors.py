"""Errors of service/ and how they are answered: problem details (RFC 9457).

ServiceError
├── BadRequest          400  the body is no JSON document, or a header makes no sense
├── Unauthorized        401  the key is missing or wrong
├── Forbidden           403  a browser asks for a page or a host that the service does not know
├── NotFound            404  there is no such head or route
├── MethodNotAllowed    405  the route exists, for another method
├── SlowRequest         408  the body did not arrive before the deadline
├── TooLarge            413  the body is larger than the limit
├── UnsupportedMedia    415  the body is not declared as JSON
├── Unprocessable       422  an input or a parameter is not acceptable; names each field
├── QueueFull           429  as many tokens wait as may, or as could be answered in time; come back later
├── HeadTooLarge        431  the lines before the body are longer than the limit
├── ClientGone          499  nobody is left to answer
├── InferenceFailed     500  the encoder or the head failed on this input
├── Unavailable         503  loading, draining, or out of lanes
└── DeadlinePassed      504  the deadline passed, and where

SettingsError            a setting contradicts another, or a bundle; ends the start
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from models.errors import BertheadsError

MEDIA_TYPE = "application/problem+json"


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

    def __init__(self, detail: str, *, field: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = [FieldError(field, detail)] if field else []
        self.headers = dict(headers or {})


class BadRequest(ServiceError):
    status, title, code = 400, "Malformed request", "malformed"


class Unauthorized(ServiceError):
    status, title, code = 401, "No or wrong key", "unauthorized"


class Forbidden(ServiceError):
    status, title, code = 403, "Not allowed from there", "forbidden"


class NotFound(ServiceError):
    status, title, code = 404, "Not found", "not-found"


class MethodNotAllowed(ServiceError):
    status, title, code = 405, "Method not allowed", "method-not-allowed"


class SlowRequest(ServiceError):
    status, title, code = 408, "Request too slow", "slow-request"


class TooLarge(ServiceError):
    status, title, code = 413, "Body too large", "body-too-large"


class UnsupportedMedia(ServiceError):
    status, title, code = 415, "Unsupported media type", "unsupported-media-type"


class Unprocessable(ServiceError):
    """Names every field at fault."""

    status, title, code = 422, "Unacceptable input", "unacceptable-input"

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = list(errors)


class QueueFull(ServiceError):
    status, title, code = 429, "Queue full", "queue-full"


class HeadTooLarge(ServiceError):
    status, title, code = 431, "Head too large", "head-too-large"


class ClientGone(ServiceError):
    """The status is nginx's; nobody receives it, but logs and metrics count it."""

    status, title, code = 499, "Client gone", "client-gone"


class InferenceFailed(ServiceError):
    status, title, code = 500, "Inference failed", "inference-failed"


class Unavailable(ServiceError):
    status, title, code = 503, "Not available", "unavailable"


SHUTTING_DOWN = "the service is shutting down; send the request to another replica"


class DeadlinePassed(ServiceError):
    """`where` is parse, tokenize, queue, encode, or decode."""

    status, title, code = 504, "Deadline passed", "deadline-passed"

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(
            f"the deadline of {seconds:g} s passed in {where}; send fewer or shorter inputs, or come back later"
        )
        self.where = where


def queue_full(reason: str, seconds: float) -> QueueFull:
    """Return the refusal of a request that may come back in so many seconds."""
    wait = str(max(1, math.ceil(seconds)))
    return QueueFull(f"{reason}; come back after Retry-After seconds", headers={"Retry-After": wait})


def problem(error: ServiceError, request_id: str) -> bytes:
    """Return the body of the answer to `error`.

    `errors` has messages, with a field where there is one: clients of the Hugging Face Inference API show these.
    """
    errors = [{"field": e.field, "message": e.message} for e in error.errors] or [{"message": error.detail}]
    body = {
        "type": f"urn:bertheads:error:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "request_id": request_id,
        "errors": errors,
    }
    return json.dumps(body).encode()
