"""Rows that wait for a lane, oldest first, and which of them go into a batch.

A batch starts with the oldest row and takes in the next that fit. Where a run pads its rows to the longest, these must
be like the oldest: a run of their own would cost more than the padding that they bring. As every batch takes the
oldest, a row runs at the latest after as many batches as there were rows before it: nothing starves.
Not thread-safe: the engine holds its lock around every call.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.row import Row

Logits = NDArray[np.float32]

WINDOW = 2
"""Batches' worth of the oldest tokens, which compete for a place in a batch: how far rows may overtake each other."""


class Deadline(NamedTuple):
    """When an answer is of no use any more."""

    at: float
    """By time.monotonic."""
    seconds: float
    """From the arrival of the request."""


class Runner(Protocol):
    """What runs a batch; models.session.Session is one."""

    pads: bool
    """Whether a row takes longer beside a longer one, because padding is computed."""

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """Return the logits [positions of the row, labels] of each (head, row), in order."""

    def run_alone(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """The same, by the cores of all lanes, where no other batch runs."""

    def gain(self, tokens: int) -> float:
        """Return how many times as fast `run_alone` takes so many tokens; 1 where it is not worth it."""


@dataclass(slots=True, eq=False)
class Job:
    """One request in the queue: its rows may go into several batches, beside rows of other requests."""

    runner: Runner
    head: str
    rows: Sequence[Row]
    deadline: Deadline
    future: "asyncio.Future[list[Logits]]"
    """Gets the logits of each row."""
    queued_at: float
    tokens: int = 0
    logits: dict[int, Logits] = field(default_factory=dict)
    """Of the rows that are done."""
    waiting: int = 0
    """Rows that no lane has taken yet."""
    waiting_tokens: int = 0
    started_at: float = 0.0
    finished_at: float = 0.0
    dropped: bool = False

    def __post_init__(self) -> None:
        self.tokens = self.waiting_tokens = sum(len(row.input_ids) for row in self.rows)
        self.waiting = len(self.rows)


@dataclass(slots=True, eq=False)
class Item:
    """One row of a job."""

    job: Job
    index: int
    length: int
    """Tokens of the row."""


class Queue:
    """Counts rows and tokens that still wait; those of dropped jobs count no more, though they leave later.

    `run_tokens`: what a run costs whatever is in it, in tokens that could be computed in that time.
    """

    def __init__(self, run_tokens: int) -> None:
        self._run_tokens = run_tokens
        self._items: deque[Item] = deque()
        self.rows = 0
        self.tokens = 0

    def push(self, job: Job) -> None:
        """Append the rows of a job."""
        self._items.extend(Item(job, index, len(row.input_ids)) for index, row in enumerate(job.rows))
        self.rows += job.waiting
        self.tokens += job.waiting_tokens

    def drop(self, job: Job) -> bool:
        """Give a job up; return False if that was done before."""
        if job.dropped:
            return False
        job.dropped = True
        self.rows -= job.waiting
        self.tokens -= job.waiting_tokens
        job.waiting = job.waiting_tokens = 0
        return True

    def take(self, budget: int) -> list[Item]:
        """Remove and return the oldest row and what fits beside it: within `budget` tokens, padding included.

        One row is taken however long it is; none if nothing waits. All rows of a batch have one runner.
        """
        window = self._window(WINDOW * budget)
        if not window:
            return []
        batch = _fill(window, budget, self._run_tokens)
        taken = set(map(id, batch))
        self._items.extendleft(item for item in reversed(window) if id(item) not in taken)
        for item in batch:
            item.job.waiting -= 1
            item.job.waiting_tokens -= item.length
            self.tokens -= item.length
        self.rows -= len(batch)
        return batch

    def clear(self) -> list[Job]:
        """Give up everything; return the jobs that are still wanted."""
        jobs = {id(item.job): item.job for item in self._items if not item.job.dropped}
        for job in jobs.values():
            self.drop(job)
        self._items.clear()
        return list(jobs.values())

    def _window(self, tokens: int) -> list[Item]:
        """Take out the oldest rows: so many tokens, and one row at least."""
        window: list[Item] = []
        while self._items and (tokens > 0 or not window):
            item = self._items.popleft()
            if not item.job.dropped:
                window.append(item)
                tokens -= item.length
        return window


def _fill(window: Sequence[Item], budget: int, run_tokens: int) -> list[Item]:
    """Choose a batch among rows in order of age: the first, and the next for the same runner that fit."""
    runner = window[0].job.runner
    rows = [item for item in window if item.job.runner is runner]
    if runner.pads:
        return _fill_alike(rows, budget, run_tokens)
    tokens, batch = 0, list[Item]()
    for item in rows:
        if not batch or tokens + item.length <= budget:
            tokens += item.length
            batch.append(item)
    return batch


def _fill_alike(rows: Sequence[Item], budget: int, run_tokens: int) -> list[Item]:
    """The first, and those most like it, the older first."""
    oldest = rows[0]
    alike = [item for item in rows if abs(item.length - oldest.length) <= run_tokens]
    alike.sort(key=lambda item: abs(item.length - oldest.length))  # stable; the oldest itself comes first
    longest, batch = 0, list[Item]()
    for item in alike:
        length = max(longest, item.length)
        padding = (length - longest) * len(batch) + length - item.length
        if batch and (padding > run_tokens or length * (len(batch) + 1) > budget):
            continue  # a later one may still fit, on the other side of the oldest
        longest = length
        batch.append(item)
    return batch
