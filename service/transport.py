"""The sending side of a connection: everything written in one iteration of the event loop is sent in one packet."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl

BEGINNING = b"HTTP/1.1 "
"""The first bytes of every response."""


class Corked:
    """A transport that collects writes, and sends them at the end of the current iteration of the event loop."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, finish: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._finish = finish
        """Called to end the connection, after everything has been written."""
        self._held: list[bytes] = []
        self._begun = False
        self._closed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._closed:
            return
        if not self._held:
            self._loop.call_soon(self._send)
        self._held.append(data[len(BEGINNING) :] if self._begun else data)
        self._begun = False

    def begin(self) -> None:
        """Send the bytes with which every response begins; leave them out of the next response."""
        self.write(BEGINNING)
        self._begun = True

    def close(self) -> None:
        if not self._closed:
            self._send()
            self._closed = True
            self._finish()

    def is_closing(self) -> bool:
        return self._closed or self._transport.is_closing()

    def _send(self) -> None:
        if self._held and not self._transport.is_closing():
            self._transport.write(b"".join(self._held))
        self._held.clear()


class Flow(FlowControl):
    """Uvicorn's flow control, but reading stays paused while earlier input waits for the parser."""

    holding = False

    def resume_reading(self) -> None:
        if not self.holding:
            super().resume_reading()
