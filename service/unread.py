"""Limits on responses that clients do not read: a time limit per connection, and a byte limit for all connections."""

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
"""A client that reads nothing for this time loses its connection, if the system cannot buffer the response."""
MAX_UNREAD = 1 << 27
"""Maximum bytes of responses, over all connections, that wait for clients to read them."""


class UnreadLimit(HttpToolsProtocol):
    """A connection that is aborted if its client does not read."""

    def __init__(self, **named: Any) -> None:
        super().__init__(**named)
        self._unread_timer: asyncio.TimerHandle | None = None
        self._unread_since = 0.0

    def connection_lost(self, exc: Exception | None) -> None:
        self._all_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Watch the client: the system's send buffer is full. If MAX_UNREAD is exceeded, abort the oldest waiters."""
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
        """Return the bytes that the client has not read: in our buffer, and in the system's if it reports them."""
        in_system = array("i", [0])
        if TIOCOUTQ is not None:
            with suppress(OSError):  # some systems support it only for terminals
                fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), TIOCOUTQ, in_system)
        return self.transport.get_write_buffer_size() + in_system[0]

    def _give_up(self) -> None:
        self._all_read()
        self.transport.abort()

    def _all_read(self) -> None:
        if self._unread_timer:
            self._unread_timer.cancel()
            self._unread_timer = None
