"""The bytes of a request's body: how they are read, decompressed, limited and refused."""

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
"""A body of more bytes is parsed on a thread, and is refused while too many bytes are in memory (see MAX_BODIES)."""
MAX_BODIES = 1 << 28
"""Maximum bytes of all bodies in memory, from a body's first byte to its response: as received, or as decoded text."""
MAX_VALUES = 1 << 15
"""Maximum values in a long body. Each one is cheap, but parsing millions would block the interpreter for seconds."""
JSON = ("", "application/x-www-form-urlencoded", "application/json")
"""Content types accepted as JSON, including the defaults of `curl -d` and urllib."""
PLAIN = ("", "identity")
COMPRESSED = ("gzip", "x-gzip", "deflate")
"""Values of Content-Encoding (RFC 9110, 8.4.1)."""
CLOSE = {"Connection": "close"}
"""Header of a response that leaves the rest of the body unread: the connection cannot be used again."""


class Bodies:
    """Counts the bytes of all bodies, so that many long ones at once cannot exhaust the memory."""

    def __init__(self) -> None:
        self.size = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that counts bytes of one body; it raises QueueFull if a long body exceeds MAX_BODIES."""
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            mine += size
            self.size += size
            if mine > LONG_BODY and self.size > MAX_BODIES:
                refused = queue_full(f"bodies of {self.size} bytes are in progress, and at most {MAX_BODIES} may be", 1)
                refused.headers |= CLOSE
                raise refused

        try:
            yield add
        finally:
            self.size -= mine


async def read_body(
    request: Request, deadline: Deadline, limit: int, count: Callable[[int], None], media: Container[str] | None = JSON
) -> bytes:
    """Return the body, decompressed.

    `count` is called with the size of each chunk, and may raise. `media` holds the accepted content types; None accepts
    any. Raises TooLarge as soon as more than `limit` bytes are announced or received, SlowRequest at the deadline,
    UnsupportedMedia, ClientGone, and BadRequest for invalid compressed data.
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
    """Raise BadRequest if a body has more than MAX_VALUES values, which no valid request needs."""
    if body.count(b",") > MAX_VALUES and _commas_outside_strings(body) > MAX_VALUES:
        raise malformed(f"has more than {MAX_VALUES} values; send fewer inputs")


def _commas_outside_strings(body: bytes) -> int:
    """Count commas with NumPy, in steps of a few milliseconds, so that other threads can run in between."""
    plain = np.frombuffer(body.replace(b"\\\\", b"").replace(b'\\"', b""), np.uint8)
    outside = np.cumsum(plain == ord('"'), dtype=np.uint8) % 2 == 0
    return int(np.count_nonzero((plain == ord(",")) & outside))


def malformed(sentence: str) -> BadRequest:
    return BadRequest(f"the body {sentence}", field="body")


def _check_declared(headers: Headers, encoding: str, limit: int, accepted: Container[str] | None) -> None:
    """Raise UnsupportedMedia or TooLarge if the headers alone show that the body must be refused."""
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
    inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)  # detects gzip or zlib by itself
    try:
        inflated = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise malformed(f"is not what its Content-Encoding says ({error}); send it as it is, or compress it") from None
    if len(inflated) > limit:
        raise _too_large("in its inflated form", limit)
    if not inflate.eof:
        raise malformed("ends before its compressed data does; send all of it")
    if inflate.unused_data:
        raise malformed("continues after its compressed data; send one compressed document")
    return inflated


def _too_large(what: str, limit: int) -> TooLarge:
    sentence = f"the body {what} exceeds the limit of {limit} bytes; send fewer or shorter inputs"
    return TooLarge(sentence, field="body", headers=CLOSE)
