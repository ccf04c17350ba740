"""What both ends of the connection between a front and an engine process share: sending frames in groups."""

import asyncio
from typing import Any, cast


class FrameProtocol(asyncio.Protocol):
    """Sends the frames of one iteration of the event loop together, because each write is a system call."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        """None while there is no connection."""
        self._out: list[Any] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def _send(self, parts: list[Any]) -> None:
        """Send a frame at the end of this iteration; without a connection it is dropped."""
        if not self._out:
            asyncio.get_running_loop().call_soon(self._flush)
        self._out += parts

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport:
            self._transport.write(b"".join(out))
