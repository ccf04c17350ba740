"""A bound on answers that clients do not read, in time for each connection and in bytes for all together."""

import asyncio
import time
from array import array
from contextlib import suppress
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

try:
    import fcntl
    import termios
except ImportError:  # not Unix
    TIOCOUTQ = None
else:
    TIOCOUTQ = getattr(termios, "TIOCOUTQ", None)

UNREAD_SECONDS = 30.0
"""Within which a client must take some of an answer that the system cannot buffer."""
MAX_UNREAD = 1 << 27
"""Bytes of answers that may wait for clients to read them."""


class UnreadLimit(HttpToolsProtocol):
    """A connection that ends when its client does not read."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_since = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of an answer waits than the system takes."""
        super().pause_writing()
        self._unread_since = time.monotonic()
        self._await_reader()
        everyone = (other for other in self.connections if isinstance(other, UnreadLimit) and other._unread_timer)
        waiting = sorted(everyone, key=lambda other: other._unread_since)
        unread = sum(other.transport.get_write_buffer_size() for other in waiting)
        for other in waiting:
            if unread <= MAX_UNREAD:
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
        """Bytes that the client has not taken, here and in the system where it tells."""
        in_system = array("i", [0])
        if TIOCOUTQ is not None:
            with suppress(OSError):  # some systems know it only of terminals
                fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, in_system)
        return self.transport.get_write_buffer_size() + in_system[0]

    def _give_up(self) -> None:
        self._all_read()
        self.transport.abort()

    def _all_read(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None
