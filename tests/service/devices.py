"""Engine processes and fronts on one event loop, over real sockets, with fake encoders that tests control."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from models.errors import BundleError
from service.admission import Limits
from service.board import socket_path
from service.device import Device, Opened
from service.front import Engines, Handle
from service.metrics import Metrics
from service.settings import Settings
from tests.service.engines import Encoder, until

HEADS = ["a", "b", "c"]
BUNDLE: Any = SimpleNamespace(
    directory=Path("nowhere"), digest="0", manifest=SimpleNamespace(heads=dict.fromkeys(HEADS))
)


class Told(Encoder):
    """The properties that an engine process reports of a session."""

    precision, provider, max_length, is_wide = "fp32", "cpu", 512, False


class Sessions:
    """In place of service.device.Sessions: every bundle has the same encoder."""

    def __init__(self, encoder: Told) -> None:
        self.encoder = encoder
        self.users = 0
        self.error: Exception | None = None

    async def open(self, directory: str, digest: str, heads: list[str], like: object) -> Opened:
        if self.error:
            raise self.error
        self.users += 1
        return Opened(self.encoder, heads)  # type: ignore[arg-type]

    def close(self, digest: str, heads: list[str]) -> None:
        self.users -= 1


@asynccontextmanager
async def device(directory: Path, number: int = 0, **settings: Any) -> AsyncIterator[tuple[Device, Told]]:
    """An engine process without a process of its own."""
    chosen = Settings(
        **({"lanes": 1, "batch_tokens": 1000, "max_queue_seconds": 3600.0, "drain_timeout": 1} | settings)
    )
    made, encoder = Device(chosen, number, directory), Told()
    made.sessions = Sessions(encoder)  # type: ignore[assignment]
    task = asyncio.create_task(made.serve())
    try:
        yield made, encoder
    finally:
        encoder.open.set()
        made._end_at = 0.0
        await task


@asynccontextmanager
async def front(
    directory: Path, devices: int = 1, fronts: int = 1, **settings: Any
) -> AsyncIterator[tuple[Engines, Handle]]:
    """A front that has a bundle open."""
    chosen = Settings(**({"lanes": 1, "batch_tokens": 1000, "max_queue_seconds": 3600.0} | settings))
    paths = [socket_path(directory, number) for number in range(devices)]
    engines = Engines(paths, Limits.of(chosen), fronts, Metrics())
    engines.start()
    try:
        yield engines, await asyncio.to_thread(engines.open, BUNDLE)
    finally:
        engines.stop(1)
        await asyncio.sleep(0)


async def ready(engines: Engines) -> None:
    await until(lambda: not engines.obstacles() and all(link.ready for link in engines._links))


def lose_connections(process: Any) -> None:
    for connection in process.connections:
        connection.abort()


async def refuse_what_is_served(process: Any, engines: Engines) -> None:
    """Let an engine process that was started again refuse the served bundle."""
    process.sessions.error = BundleError("nowhere has changed")
    lose_connections(process)
    await until(lambda: engines.obstacles() == ["nowhere has changed"])
