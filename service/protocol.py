"""HTTP/1.1 as uvicorn speaks it, but that head and body of an answer leave in one system call and one packet, that
who does not finish the head of a request holds neither memory nor a connection, that who does not read a long answer
holds it for a while only, and that an offer of another protocol is passed over (RFC 9110, 7.8), as Java's client makes
one with every request.
"""

import asyncio
import fcntl
import termios
import time
from array import array
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import MEDIA_TYPE, HeadTooLarge, problem

MOST_HEAD = 1 << 16
"""Bytes of a request before its body."""
HEAD_SECONDS = 30.0
"""That a client may take for them."""
UNREAD_SECONDS = 30.0
"""In which a client must take some of an answer, while more of it waits than the system holds."""
MOST_UNREAD = 1 << 27
"""Bytes of answers that may wait for clients to read them."""
FRAMING = (b"content-length", b"transfer-encoding")


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *rest: Any, **named: Any) -> None:
        super().__init__(*rest, **named)
        self._in_head = False
        self._head_bytes = 0
        """Since the packet in which the head began."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._passing_over = False
        """Whether the parser reads a head that stands in place of one with an offer."""
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(cast(asyncio.Transport, Corked(transport, self.loop)))
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._all_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data) if self._in_head else 0
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > MOST_HEAD:
            self._refuse_head()
        elif self._in_head and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)
        if self.timeout_keep_alive_task is None and self.cycle and self.cycle.response_complete:
            # The rest of a body that nobody wants, or part of the next head: the connection idles on.
            handler = self.timeout_keep_alive_handler
            self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, handler)

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which stops behind a head with an offer and takes what follows for another protocol."""
        left = memoryview(data)
        while left:
            try:
                self.parser.feed_data(left)
                return
            except httptools.HttpParserUpgrade as offer:
                self._pass_over()
                left = left[offer.args[0] :]

    def _pass_over(self) -> None:
        """Let the parser go on with the body of the request whose head it has read."""
        framing = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] in FRAMING)
        self._passing_over = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        self._passing_over = False

    def on_message_begin(self) -> None:
        if not self._passing_over:
            self._in_head, self._head_bytes = True, 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._passing_over:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._passing_over:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._passing_over:
            self._in_head = False
            self._disarm()
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._passing_over or not self.parser.should_upgrade():  # else its body is yet to come
            super().on_message_complete()

    def pause_writing(self) -> None:
        """More of an answer waits than the system takes."""
        super().pause_writing()
        self._unread_since = time.monotonic()
        self._await_reader()
        everyone = (other for other in self.connections if isinstance(other, Protocol) and other._unread_timer)
        waiting = sorted(everyone, key=lambda other: other._unread_since)
        unread = sum(other.transport.get_write_buffer_size() for other in waiting)
        for other in waiting:
            if unread <= MOST_UNREAD:
                break
            unread -= other.transport.get_write_buffer_size()
            other._give_up()

    def resume_writing(self) -> None:
        self._all_read()
        super().resume_writing()

    def _await_reader(self) -> None:
        self._all_read()
        self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self._look_at_reader, self._unread())

    def _look_at_reader(self, before: int) -> None:
        if self._unread() < before:
            self._await_reader()
        else:
            self._give_up()

    def _unread(self) -> int:
        """Bytes that the client has not taken, here and in the system."""
        in_system = array("i", [0])
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, in_system)
        return self.transport.get_write_buffer_size() + in_system[0]

    def _give_up(self) -> None:
        self._all_read()
        self.transport.abort()

    def _all_read(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _refuse_head(self) -> None:
        sentence = f"the lines before the body exceed {MOST_HEAD} bytes; send shorter headers, and texts in the body"
        body = problem(HeadTooLarge(sentence), "")
        head = (
            f"HTTP/1.1 {HeadTooLarge.status} {HeadTooLarge.title}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _disarm(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None


class Corked:
    """A transport that sends at the end of a turn of the event loop what was written in it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._held and not self._transport.is_closing():
            self._transport.write(b"".join(self._held))
        self._held.clear()
