"""Engines over a fake encoder that tests control."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count

import numpy as np

from models.row import Row
from service.admission import Limits
from service.engine import Engine
from service.metrics import Metrics
from service.queue import Deadline, Job, Logits

POISON, DEADLY = 666, 999


class Encoder:
    """Answers each row with its ids; waits while `open` is cleared; remembers what it ran."""

    pads = True

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.batches: list[list[tuple[str, int]]] = []
        self.lanes: set[str] = set()
        self.alone: list[int] = []
        """Which of the batches were alone."""

    def gain(self, tokens: int) -> float:
        return 2.0 if tokens >= 10 else 1.0

    def run_alone(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        self.alone.append(len(self.batches))
        return self.run(items)

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        self.batches.append([(head, len(row.input_ids)) for head, row in items])
        self.lanes.add(threading.current_thread().name)
        assert self.open.wait(20)
        ids = [row.input_ids for _, row in items]
        if any(POISON in each for each in ids):
            raise ValueError("poison")
        if any(DEADLY in each for each in ids):
            raise SystemExit("a bug below Exception")
        return [np.array([each], np.float32) for each in ids]


fresh = count(1000)


class Steps(threading.Event):
    """In place of an Encoder's `open`: lets some batches pass, then none until it is set."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self._left = batches

    def wait(self, timeout: float | None = None) -> bool:
        self._left -= 1
        return self._left >= 0 or super().wait(timeout)


def row(length: int = 10, first: int = 7) -> Row:
    """Return a row that is equal to no other, if it has more than one token."""
    ids = [first] + [1] * (length - 2) + [next(fresh)]
    return Row(ids[:length], [0] * length, [0])


def submit(
    engine: Engine, encoder: Encoder, head: str, rows: Sequence[Row], deadline: Deadline, weight: float = 1.0
) -> Job:
    """Submit rows for one head."""
    return engine.submit(encoder, [(head, each) for each in rows], deadline, weight)


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline(time.monotonic() + seconds, seconds)


@asynccontextmanager
async def running(
    lanes: int = 1,
    batch_tokens: int = 1000,
    queued_tokens: int = 10_000,
    queue_seconds: float = 3600.0,
    lane_timeout: float = 60.0,
    run_tokens: int = 6,
) -> AsyncIterator[tuple[Engine, Encoder]]:
    limits = Limits(lanes, batch_tokens, run_tokens, queued_tokens, queue_seconds, lane_timeout)
    engine, encoder = Engine(limits, Metrics()), Encoder()
    engine.start()
    try:
        yield engine, encoder
    finally:
        encoder.open.set()
        engine.stop(5)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


def scenario(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine as a test."""

    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


def total(engine: Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"bertheads_{name}", labels) or 0.0


async def held(engine: Engine, encoder: Encoder) -> Job:
    """Keep the (one) lane busy with a row of 3 tokens."""
    encoder.open.clear()
    job = submit(engine, encoder, "blocker", [row(3)], soon())
    await until(lambda: len(encoder.batches) == 1)
    return job
