"""Uvicorn's HTTP/1.1 protocol, with limits on what one connection may hold.

Headers, trailers and pipelined requests are limited in bytes; unfinished headers and unread responses in time. Only one
request at a time is parsed. After an early response, the rest of the body is discarded before the connection closes.
A client that has shut down its sending side still gets its response. Upgrade headers are ignored (RFC 9110, 7.8),
because Java's client sends one with every request.
"""

import asyncio
import socket
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT

from service import malformed
from service.connections import Connections
from service.malformed import Refusal
from service.transport import Corked, Flow
from service.unread import UnreadLimit

MAX_HEAD = 1 << 16
"""Maximum bytes of a request before its body, and of its trailers."""
MAX_HEADERS = 256
HEAD_SECONDS = 30.0
"""Maximum seconds until the headers of a request are complete."""
HEALTH_SECONDS = 2.0
"""The same, for a connection above the limit of connections."""
MAX_REST = 1 << 20
"""Maximum bytes of an answered request that are read in order to keep its connection open."""
MAX_DISCARDED = 1 << 26
"""Maximum bytes that are read and discarded before a connection closes, so that the client can read its response."""
DISCARD_SECONDS = 30.0
"""Maximum seconds of that."""
PAUSE_SECONDS = 2.0
"""Such a connection closes sooner if no input arrives for this time."""
MAX_PIECE = 1 << 14
"""Maximum bytes that the parser gets at a time, except in a body of known length."""
MAX_POLL_SECONDS = 1.0
"""Maximum seconds between checks whether a half-closed client has disconnected."""
BLANK_LINE = b"\r\n\r\n"
FRAMING = (b"content-length", b"transfer-encoding")
HEALTH = (b"/health/live", b"/health/ready", b"/v2/health/live", b"/v2/health/ready")


class Protocol(UnreadLimit):
    """One connection."""

    def __init__(self, front: Connections, **named: Any) -> None:
        super().__init__(**named)
        self._front = front
        self._raw: asyncio.Transport
        self._corked: Corked
        self._flow: Flow
        self._only_health = False
        self._data = b""
        """Input; the parser has already got the bytes before `_at`."""
        self._at = 0
        self._tail = b""
        """The last bytes before `_at`, if they may be the start of a blank line."""
        self._held = 0
        """Bytes of this connection in the total that all connections hold."""
        self._in_head = False
        self._in_body = False
        self._overhead = 0
        """Bytes since the end of the last request, header block or piece of a body."""
        self._body_left = 0
        """Bytes of the body that have not arrived; 0 if unknown."""
        self._keep_alive = True
        """Whether the connection stays open once the whole request has arrived."""
        self._refusal: Refusal | None = None
        self._discarded = 0
        self._eof = False
        self._passing_over = False
        """Whether the parser reads the substitute for a header block with an Upgrade."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        """Timer of the checks whether a half-closed client has gone, or still sends input to discard."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        self._raw, self._corked = transport, Corked(transport, self.loop, self._finish)
        super().connection_made(cast(asyncio.Transport, self._corked))
        self.flow = self._flow = Flow(self.transport)
        self._front.note(len(self.connections))
        access = self._front.access(len(self.connections))
        if access == "none":
            self._front.refuse(self._client(), "reserve", "too many connections are open, even for health checks")
            transport.abort()
            return
        self._only_health = access == "health"
        self._front.rest(self)
        self._head_timer = self.loop.call_later(self._head_seconds(), self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._front.work(self)
        self._disarm()
        self._stop_end_timer()
        self._unset_keepalive_if_required()
        self._hold(b"")
        self._count_held(0)
        super().connection_lost(exc)
        self._front.note(len(self.connections))

    # Input

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            self._discard(len(data))
        elif self._is_answered() and self._discarded + len(data) > MAX_REST:
            self.transport.close()
        else:
            self._discarded += len(data)
            self._data, self._at = (self._data[self._at :] + data, 0) if self._data else (data, 0)
            self._feed()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # as asyncio allows
        """Keep the connection open until the request that has arrived is answered."""
        self._eof = True
        if not self._is_waiting() or self.transport.is_closing():
            self.transport.close()
            return None
        self.cycle.keep_alive = False
        if not self.cycle.response_started:
            # Send a byte now: a client that has closed its socket completely answers it with a reset.
            self._corked.begin()
        self._look_for_reset(0.01)
        return True

    def _feed(self) -> None:
        """Feed the input to the parser piece by piece, until a complete request waits for its response."""
        view = memoryview(self._data)
        while self._at < len(view) and not self._is_waiting():
            start, self._at = self._at, self._piece_end()
            self._parse(view[start : self._at])
            if self._refusal:
                self._refuse(self._refusal)
                return
        self._hold(self._data if self._at < len(view) else b"")
        if self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds(), self._head_is_late)

    def _is_waiting(self) -> bool:
        """Whether a request has arrived completely and its response is not complete."""
        cycle = self.cycle
        return cycle is not None and not cycle.response_complete and not cycle.more_body

    def _is_answered(self) -> bool:
        """Whether the response is complete, but the rest of its request has not arrived."""
        return self._in_body and self.cycle.response_complete

    def _piece_end(self) -> int:
        """Return the end of the next piece. Pieces end at blank lines, so none contains parts of two requests."""
        data, start = self._data, self._at
        if self._body_left:
            self._tail = b""
            return min(len(data), start + self._body_left)
        end = min(len(data), start + MAX_PIECE)
        blank = data.find(BLANK_LINE, start, end)
        split = (self._tail + data[start : start + 3]).find(BLANK_LINE) if self._tail else -1
        if split >= 0:
            blank = start - len(self._tail) + split
        if blank >= 0 or split >= 0:
            self._tail, end = b"", blank + len(BLANK_LINE)
        else:
            self._tail = (self._tail + data[max(start, end - 3) : end])[-3:]
        self._overhead += end - start
        if self._overhead > MAX_HEAD:
            self._refusal = malformed.too_long(MAX_HEAD)
        return end

    def _parse(self, piece: memoryview) -> None:
        """Feed the parser. It stops after a header block with an Upgrade; then make it go on with HTTP."""
        left = piece
        try:
            while left and not self._refusal:
                try:
                    self.parser.feed_data(left)
                    return
                except httptools.HttpParserUpgrade as offer:
                    self._pass_over()
                    left = left[offer.args[0] :]
        except httptools.HttpParserError as error:
            self._refusal = self._refusal or malformed.not_http(piece, self.parser.get_method(), error)

    def _pass_over(self) -> None:
        """Make the parser go on with the body of this request, by a substitute header block without the Upgrade."""
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING)
        self._passing_over = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._passing_over = False

    def _hold(self, data: bytes) -> None:
        """Keep input for later, and pause reading until then."""
        self._data, self._at = data, self._at if data else 0
        self._flow.holding = bool(data)
        if data:
            self._flow.pause_reading()
        if data or self._in_head or self._held:
            self._count_held(len(data) + (self._overhead if self._in_head else 0))

    def _count_held(self, size: int) -> None:
        fits = self._front.hold(size - self._held)
        self._held = size
        if not fits:
            self._front.refuse(self._client(), "memory", "the connections hold too many bytes of input")
            self._raw.abort()

    # Callbacks of the parser

    def on_message_begin(self) -> None:
        if not self._passing_over:
            self._in_head, self._discarded = True, 0
            self._front.work(self)
            self._unset_keepalive_if_required()
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._passing_over:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; drop trailers, which come after the header block."""
        if not self._in_head:
            return
        name = name.lower()
        self.headers.append((name, value))
        if name == b"content-length":
            self._body_left = int(value)
        elif name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        if len(self.headers) > MAX_HEADERS:
            self._refusal = malformed.too_many(MAX_HEADERS)

    def on_headers_complete(self) -> None:
        if self._passing_over:
            return
        self._disarm()
        if self._only_health and self.url.partition(b"?")[0] not in HEALTH:
            self._refusal = self._refusal or malformed.too_many_connections(self._front.limit)
        if self._refusal:
            return
        super().on_headers_complete()
        self._in_head, self._in_body, self._overhead = False, True, 0
        self._keep_alive = self.cycle.keep_alive and not self._only_health
        if self._only_health or self.expect_100_continue:
            # A client that got no 100 Continue may send its next request instead of the body.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._overhead = 0
        if self._body_left:
            self._body_left -= len(body)
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            cycle.message_event.set()
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()

    def on_message_complete(self) -> None:
        if self._refusal or (not self._passing_over and self.parser.should_upgrade()):  # its body is still to come
            return
        self._in_body, self._overhead, self._body_left = False, 0, 0
        if self.expect_100_continue and not self.cycle.response_started:
            self.cycle.keep_alive = self._keep_alive
        cycle = self.cycle
        cycle.more_body = False
        cycle.message_event.set()
        if cycle.response_complete:
            self._front.rest(self)

    # Responses

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._data:
            self._feed()
            self.flow.resume_reading()
        if not self._in_head and not self._in_body:
            self._front.rest(self)

    def shutdown(self) -> None:
        self._keep_alive = False
        super().shutdown()
        if self._corked.is_closing():  # the connection stays open only to discard input
            self._raw.close()

    def close_idle(self) -> None:
        self.transport.close()

    def _head_is_late(self) -> None:
        if self._in_head:
            self._refuse(malformed.too_slow(self._head_seconds()))
        else:
            self.transport.close()

    def _head_seconds(self) -> float:
        return HEALTH_SECONDS if self._only_health else HEAD_SECONDS

    def _refuse(self, refusal: Refusal) -> None:
        """Send an error without the app, and close."""
        self._refusal = refusal
        self._note(refusal)
        cycle = self.cycle if self._in_body else None
        begun = cycle is not None and cycle.response_started
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        if not begun:
            self._corked.write(malformed.answer(refusal.error, self.server_state.default_headers, self._path()))
        self.transport.close()

    def _note(self, refusal: Refusal) -> None:
        record = self._front.refuse if refusal.reason == "limit" else self._front.reject
        record(self._client(), refusal.reason, refusal.error.detail)
        if not self._in_body:  # otherwise the app counts the request
            self._front.count(refusal.error.status)

    def _path(self) -> str:
        """Return the path of the newest request, as far as it was parsed."""
        return (getattr(self, "url", b"") or b"").decode("latin-1")

    def _client(self) -> str:
        return self.client[0] if self.client else ""

    # Closing

    def _finish(self) -> None:
        """Close the connection. If the client still sends, first discard its input: a reset could lose the response."""
        self._disarm()
        self._unset_keepalive_if_required()
        self._front.work(self)
        if self._raw.is_closing():
            return
        sends = self._data or self._in_head or self._in_body or self._refusal
        self._hold(b"")
        if self._eof or not sends:
            self._raw.close()
            return
        self.flow.resume_reading()
        self._raw.write_eof()
        self._discarded = 0
        end = self.loop.time() + DISCARD_SECONDS
        self._end_timer = self.loop.call_later(PAUSE_SECONDS, self._look_for_pause, 0, end)

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED:
            self._raw.close()

    def _look_for_pause(self, before: int, end: float) -> None:
        if self._discarded == before or self.loop.time() > end:
            self._raw.close()
        else:
            self._end_timer = self.loop.call_later(PAUSE_SECONDS, self._look_for_pause, self._discarded, end)

    def _look_for_reset(self, delay: float) -> None:
        """Abort the connection if a half-closed client has gone; asyncio does not notice, because it reads no more."""
        if self._raw.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._raw.abort()
        else:
            self._end_timer = self.loop.call_later(delay, self._look_for_reset, min(2 * delay, MAX_POLL_SECONDS))

    def _stop_end_timer(self) -> None:
        if self._end_timer:
            self._end_timer.cancel()
            self._end_timer = None

    def _disarm(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None
