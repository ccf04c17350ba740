"""Runs the app in this process, from a socket to an exit status.

On SIGTERM the service reports not ready, but still answers for `drain_delay` seconds, so that load balancers notice.
Then the port closes, requests in flight get `drain_timeout` seconds, and the process exits with status 0. A second
signal skips the delay; a signal after the delay aborts the requests in flight. SIGINT and SIGHUP from a terminal do the
same. SIGUSR1 loads all bundles again from their directories.
"""

import asyncio
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from models.onnx_runtime import flush_denormals
from service import logs
from service.app import create_app
from service.connections import Connections, connection_limit, raise_file_limit
from service.control import Control
from service.lifecycle import Service
from service.listener import BACKLOG
from service.protocol import Protocol
from service.settings import Settings

KEEP_ALIVE = 75
"""Maximum idle seconds of a connection. Longer than the 60 s of common proxies, so that the proxy closes it first."""
LOOK_SECONDS = 0.1
"""Seconds between checks for a stop signal, while a worker loads before it takes connections."""
LOST = 2
"""Exit status of a worker that lost a lane; the status of one that cannot load is 1."""


class Server(uvicorn.Server):
    """Uvicorn's server, with a delay before it stops; it also exits when loading fails."""

    def __init__(self, config: uvicorn.Config, service: Service, load_first: bool, supervised: bool) -> None:
        super().__init__(config)
        self.service = service
        self.supervised = supervised
        self.load_first = load_first
        self.lost = False
        """Whether a lane was lost, and a supervisor is there to start another worker."""
        self._stop_at: float | None = None
        self._reload_wanted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Take connections, with `load_first` only after the bundles are loaded."""
        if self.load_first:
            loading = self.service.loading()
            while not loading.done():
                await asyncio.wait([loading], timeout=LOOK_SECONDS)
                if self._stop_at is not None:
                    self.service.drain()
            self.should_exit = self.service.served is None
        if not self.should_exit:
            await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port and the connections, and end the lanes, which must not run when the process exits."""
        await super().shutdown(sockets)
        if self.force_exit:  # then uvicorn has skipped the app's shutdown
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Only set flags: the signal may have come while a lock was held."""
        if self.supervised and sig != signal.SIGTERM:
            return  # the supervisor gets it from the terminal too, and sends SIGTERM
        now = time.monotonic()
        self.force_exit = self.should_exit
        self._stop_at = now + self.service.settings.drain_delay if self._stop_at is None else now

    def handle_reload(self, sig: int, frame: FrameType | None) -> None:
        """Only set a flag, as in handle_exit."""
        self._reload_wanted = True

    async def on_tick(self, counter: int) -> bool:
        """Check ten times per second whether to stop or to load bundles again."""
        if self._stop_at is not None:
            self.service.drain()
            self.should_exit = time.monotonic() >= self._stop_at
        if self._reload_wanted:
            self._reload_wanted = False
            self.service.reload.start_all()
        self.service.note_ready()
        if self.supervised and self.service.engine.troubles():
            self.lost = self.should_exit = True
        return await super().on_tick(counter) or self.service.failure is not None


def create_server(settings: Settings, load_first: bool = False, devices: Sequence[Path] = ()) -> Server:
    """Return a server that is ready to run."""
    app = create_app(settings, devices)
    connections = Connections(connection_limit(settings.max_connections), app.state.service.metrics)
    config = uvicorn.Config(
        app.state.middleware,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        http=partial(Protocol, connections),  # type: ignore[arg-type]  # uvicorn only calls it
        server_header=False,
        ws="none",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=settings.drain_timeout,
    )
    return Server(config, app.state.service, load_first, settings.worker_count > 1 or bool(devices))


def serve(
    settings: Settings,
    listener: socket.socket,
    load_first: bool = False,
    pipe: "Connection[Any, Any] | None" = None,
    devices: Sequence[Path] = (),
) -> int:
    """Serve until a signal; return the exit status.

    `load_first`: take no connections before the bundles are loaded. `pipe`: the connection to the supervisor, if any.
    `devices`: the sockets of engine processes, if this is a front.
    """
    logs.configure(settings.log_level, settings.log_format)
    flush_denormals()  # before the lanes start
    raise_file_limit()
    server = create_server(settings, load_first, devices)
    if pipe:
        server.service.reload.control = Control(pipe, server.service.reload)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN if pipe else server.handle_reload)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run([listener])
    return 1 if server.service.failure else LOST if server.lost else 0
