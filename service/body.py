"""The bytes of a request's body: how many may be under way, and how they are read, inflated and refused."""

import zlib
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from starlette.types import Receive

from service.errors import BadRequest, ClientGone, TooLarge, UnsupportedMedia, queue_full

LONG_BODY = 1 << 16
"""Bytes from which parsing leaves the event loop, and others may have to wait."""
MAX_BODIES = 1 << 28
"""Bytes of all bodies that are under way, from their first byte to the answer: as received, or as text in memory."""
MAX_VALUES = 1 << 15
"""Values in a long body. Each one is cheap, but millions of them would keep the interpreter busy for seconds."""
JSON = ("", "application/x-www-form-urlencoded", "application/json")
"""Content types of JSON: declared, or what `curl -d` and urllib say when nobody tells them what they send."""
INFLATE = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""`wbits` of zlib by Content-Encoding (RFC 9110, 8.4.1)."""


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
                error = queue_full(f"bodies of {self.size} bytes are under way, and at most {MAX_BODIES} may be", 1)
                error.headers["Connection"] = "close"  # the rest of it is not read
                raise error

        try:
            yield add
        finally:
            self.size -= mine


async def read_body(
    headers: Mapping[str, str],
    receive: Receive,
    limit: int,
    count: Callable[[int], None],
    media: Container[str] = JSON,
) -> bytes:
    """Return the body, inflated; `count` learns of each piece, and may refuse it.

    Raises TooLarge as soon as more than `limit` bytes are announced, received or inflated.
    """
    _check_media(headers.get("content-type", ""), media)
    inflate = _inflater(headers.get("content-encoding", ""))
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(f"of {announced} bytes", limit)
    body, received = bytearray(), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was complete")
        piece = message.get("body", b"")
        received += len(piece)
        body += piece if inflate is None else _inflated(inflate, piece, limit + 1 - len(body))
        if max(len(body), received) > limit:  # compressed data may be endless and hold nothing
            raise _too_large("in chunks" if inflate is None else "in its inflated form", limit)
        count(len(piece))
        if not message.get("more_body", False):
            if inflate is not None and not inflate.eof:
                raise malformed("ends before its compressed data does; send all of it")
            return bytes(body)


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


def _check_media(content_type: str, accepted: Container[str]) -> None:
    media = content_type.partition(";")[0].strip().lower()
    if media not in accepted and not media.endswith("+json"):
        raise UnsupportedMedia(
            f"the body is declared as {media[:80]}; send JSON with Content-Type: application/json", field="Content-Type"
        )


def _inflater(encoding: str) -> "zlib._Decompress | None":
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name not in INFLATE:
        raise UnsupportedMedia(
            f"the body is encoded as {name[:80]}; send gzip, deflate or no Content-Encoding", field="Content-Encoding"
        )
    return zlib.decompressobj(INFLATE[name])


def _inflated(inflate: "zlib._Decompress", piece: bytes, limit: int) -> bytes:
    try:
        inflated = inflate.decompress(piece, limit)
    except zlib.error as error:
        raise malformed(f"is not what its Content-Encoding says ({error}); send it as it is, or compress it") from None
    if inflate.unused_data:
        raise malformed("goes on behind its compressed data; send one compressed document")
    return inflated


def _too_large(what: str, limit: int) -> TooLarge:
    # The rest of the body is not read, so the connection cannot be used again.
    sentence = f"the body {what} exceeds the limit of {limit} bytes; send fewer or shorter inputs"
    return TooLarge(sentence, field="body", headers={"Connection": "close"})
