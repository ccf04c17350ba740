"""The bytes of a request's body: how many may be under way, and how they are read, inflated and refused."""

import asyncio
import time
import zlib
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

import numpy as np
from starlette.datastructures import Headers
from starlette.requests import Request

from service.errors import BadRequest, ClientGone, SlowRequest, TooLarge, UnsupportedMedia, queue_full
from service.queue import Deadline

LONG_BODY = 1 << 16
"""Bytes from which parsing leaves the event loop, and others may have to wait."""
MAX_BODIES = 1 << 28
"""Bytes of all bodies that are under way, from their first byte to the answer: as received, or as text in memory."""
MAX_VALUES = 1 << 15
"""Values in a long body. Each one is cheap, but millions of them would keep the interpreter busy for seconds."""
JSON = ("", "application/x-www-form-urlencoded", "application/json")
"""Content types of JSON: declared, or what `curl -d` and urllib say when nobody tells them what they send."""
PLAIN = ("", "identity")
COMPRESSED = ("gzip", "x-gzip", "deflate")
"""Values of Content-Encoding (RFC 9110, 8.4.1)."""
CLOSE = {"Connection": "close"}
"""Header of an answer to a body of which the rest is not read, so that the connection cannot be used again."""


class Bodies:
    """Counts the bytes of all bodies, so that many long ones at a time do not fill the memory."""

    def __init__(self) -> None:
        self.size = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Yield what counts further bytes of one body; raises QueueFull for a long one beside too many others."""
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            mine += size
            self.size += size
            if mine > LONG_BODY and self.size > MAX_BODIES:
                refused = queue_full(f"bodies of {self.size} bytes are under way, and at most {MAX_BODIES} may be", 1)
                refused.headers |= CLOSE
                raise refused

        try:
            yield add
        finally:
            self.size -= mine


async def read_body(
    request: Request, deadline: Deadline, limit: int, count: Callable[[int], None], media: Container[str] | None = JSON
) -> bytes:
    """Return the body, inflated; `count` learns of each piece, and may refuse it. `media` None: of any type.

    Raises TooLarge as soon as more than `limit` bytes are announced or received, and SlowRequest at the deadline.
    """
    encoding = request.headers.get("content-encoding", "").strip().lower()
    _check_declared(request.headers, encoding, limit, media)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(deadline.at - time.monotonic()):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone("the client left before its request was complete")
                piece, more = message.get("body", b""), message.get("more_body", False)
                body += piece
                if len(body) > limit:
                    raise _too_large("in chunks", limit)
                count(len(piece))
    except TimeoutError:
        sentence = f"the body did not arrive within the deadline of {deadline.seconds:g} s"
        raise SlowRequest(sentence, field="body", headers=CLOSE) from None
    return bytes(body) if encoding in PLAIN else _inflated(body, limit)


def check_values(body: bytes) -> None:
    """Raise BadRequest for a long body of more values than any request needs."""
    if body.count(b",") > MAX_VALUES and _commas_outside_strings(body) > MAX_VALUES:
        raise malformed(f"has more than {MAX_VALUES} values; send fewer inputs")


def _commas_outside_strings(body: bytes) -> int:
    """Count them in steps of a few milliseconds, in which other threads can run."""
    plain = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(plain == ord('"'), dtype=np.uint8) % 2 == 0
    return int(np.count_nonzero((plain == ord(",")) & outside))


def malformed(sentence: str) -> BadRequest:
    return BadRequest(f"the body {sentence}", field="body")


def _check_declared(headers: Headers, encoding: str, limit: int, accepted: Container[str] | None) -> None:
    """Raise what the headers alone tell is wrong with a body."""
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if accepted is not None and media not in accepted and not media.endswith("+json"):
        sentence = f"the body is declared as {media[:80]}; send JSON with Content-Type: application/json"
        raise UnsupportedMedia(sentence, field="Content-Type")
    if encoding not in PLAIN and encoding not in COMPRESSED:
        sentence = f"the body is encoded as {encoding[:80]}; send gzip, deflate or no Content-Encoding"
        raise UnsupportedMedia(sentence, field="Content-Encoding")
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(f"of {announced} bytes", limit)


def _inflated(body: bytearray, limit: int) -> bytes:
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # finds out whether it is gzip or zlib
    try:
        inflated = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise malformed(f"is not what its Content-Encoding says ({error}); send it as it is, or compress it") from None
    if len(inflated) > limit:
        raise _too_large("in its inflated form", limit)
    if not inflate.eof:
        raise malformed("ends before its compressed data does; send all of it")
    if inflate.unused_data:
        raise malformed("goes on behind its compressed data; send one compressed document")
    return inflated


def _too_large(what: str, limit: int) -> TooLarge:
    sentence = f"the body {what} exceeds the limit of {limit} bytes; send fewer or shorter inputs"
    return TooLarge(sentence, field="body", headers=CLOSE)
