"""Responses to input that is not valid HTTP/1.1, so that it never reaches the app."""

import random
from dataclasses import dataclass

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.errors import BadRequest, HeadTooLarge, ServiceError, SlowRequest, Unavailable, media_type, problem

TLS = b"\x16"
"""The first byte of a TLS handshake; no HTTP request begins with it."""
HTTP2 = b"PRI"
"""The method in the connection preface of HTTP/2."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a connection is closed; `reason` is a label of the metrics."""

    reason: str
    error: ServiceError


def not_http(data: memoryview, method: bytes, error: httptools.HttpParserError) -> Refusal:
    """Return the refusal of bytes that the parser rejects; `method` is the method that it has read, if any."""
    if data[:1] == TLS:
        sentence = "the client speaks TLS, but this port speaks plain HTTP; use http:// in the URL"
        return Refusal("tls", BadRequest(sentence))
    if method == HTTP2:
        return Refusal("http2", BadRequest("the client speaks HTTP/2, but this port speaks HTTP/1.1; use HTTP/1.1"))
    known = not isinstance(error, httptools.HttpParserCallbackError) and str(error)
    sentence = f"the request is not valid HTTP ({known or 'Invalid URL'}); send it as HTTP/1.1"
    return Refusal("not-http", BadRequest(sentence))


def too_long(limit: int) -> Refusal:
    """Return the refusal of header or trailer lines of more than `limit` bytes."""
    sentence = f"the lines before or after the body exceed {limit} bytes; send shorter headers, and texts in the body"
    return Refusal("headers-too-long", HeadTooLarge(sentence))


def too_many(limit: int) -> Refusal:
    """Return the refusal of more headers than `limit`."""
    return Refusal("headers-too-many", HeadTooLarge(f"the request has more than {limit} headers; send fewer"))


def too_slow(seconds: float) -> Refusal:
    """Return the refusal of headers that did not arrive in time."""
    return Refusal("headers-too-slow", SlowRequest(f"the headers took more than {seconds:g} s; send them at once"))


def too_many_connections(limit: int) -> Refusal:
    """Return the refusal of a connection above the limit."""
    sentence = f"all {limit} connections are in use; try again after Retry-After seconds, and reuse connections"
    return Refusal("limit", Unavailable(sentence))


def answer(error: ServiceError, headers: list[tuple[bytes, bytes]], path: str = "") -> bytes:
    """Return a complete response with problem details, for clients of `path`; the connection closes after it."""
    request_id = f"{random.getrandbits(128):032x}"
    body = problem(error, request_id, path)
    own = {
        "content-type": media_type(path),
        "content-length": str(len(body)),
        "x-request-id": request_id,
        "connection": "close",
        **error.headers,
    }
    lines = [*headers, *((name.lower().encode(), value.encode()) for name, value in own.items())]
    return STATUS_LINE[error.status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n" + body
