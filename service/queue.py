"""Rows that wait for a lane, and which of them go into a batch: jobs take turns, so that none holds up the others.

A job's first turn is a few rows, and first turns are served in order of arrival: short requests wait for each other
alone. Rows beyond the first turn are served in turn by job, an equal number of tokens each (or in proportion to their
weights): start-time fair queueing (Goyal et al., 1996), which bounds the difference between two jobs as deficit round
robin does (Shreedhar & Varghese, 1995). While rows of both kinds wait, each kind gets half of the tokens. So a lonely
short request waits for about one batch, and a flood of them does not starve long requests.

A batch starts with the row whose turn it is and takes in the next that fit. Where a run pads its rows to the longest,
these must be like the first: a run of their own would cost more than the padding that they bring.
Not thread-safe: the engine holds its lock around every call.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.row import Row, RowKey

Logits = NDArray[np.float32]

WINDOW = 2
"""Batches' worth of the next tokens, which compete for a place in a batch: how far rows may overtake each other."""
FILL = 4
"""Runs' worth of tokens up to which rows of long jobs join a batch that would otherwise end sooner."""


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
        """Return the same, computed on the cores of all lanes, where no other batch runs."""

    def gain(self, tokens: int) -> float:
        """Return the speed-up of `run_alone` for so many tokens; 1 where it is not worth it."""


@dataclass(slots=True, eq=False)
class Job:
    """One request in the queue: its rows may go into several batches, beside rows of other requests."""

    runner: Runner
    calls: Sequence[tuple[str, Row]]
    """Heads and the rows that they read."""
    deadline: Deadline
    future: "asyncio.Future[list[Logits]]"
    """Gets the logits of each call."""
    queued_at: float
    weight: float = 1.0
    """Share of the lanes' time, relative to other jobs."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Ids of the request's trace, for log lines and for the span of a batch; see service.middleware.RequestInfo."""
    items: "list[Item]" = field(init=False)
    tokens: int = field(init=False)
    """Equal rows count once."""
    logits: dict[int, Logits] = field(default_factory=dict)
    """Of the calls that are done."""
    rest: "deque[Item]" = field(default_factory=deque)
    """Rows beyond the first turn that no lane has taken yet."""
    rest_tokens: int = 0
    first_tokens: int = 0
    """Tokens of the first turn that no lane has taken yet."""
    waiting: int = 0
    """Rows that no lane has taken yet."""
    turn: float = 0.0
    """Tokens by weight that a job has been served when the next row of `rest` is due."""
    started_at: float = 0.0
    finished_at: float = 0.0
    dropped: bool = False

    def __post_init__(self) -> None:
        equal: dict[RowKey, list[int]] = {}
        for index, (_, row) in enumerate(self.calls):
            equal.setdefault(row.key, []).append(index)
        self.items = [Item(self, indices, key.length, key) for key, indices in equal.items()]
        self.tokens = sum(item.length for item in self.items)
        self.waiting = len(self.items)

    @property
    def waiting_tokens(self) -> int:
        """Tokens that no lane has taken yet."""
        return self.first_tokens + self.rest_tokens


@dataclass(slots=True, eq=False)
class Item:
    """Equal rows of a job: the encoder computes them once, so they are scheduled as one row."""

    job: Job
    indices: list[int]
    """Places in the job's calls."""
    length: int
    """Tokens of the row."""
    key: RowKey
    first: bool = True
    """Whether it belongs to the job's first turn."""


class Queue:
    """Counts rows and tokens that wait; those of dropped jobs no longer count, though they may leave later.

    `run_tokens`: what a run costs whatever is in it, in tokens that could be computed in that time.
    `turn_tokens`: tokens of a first turn; the row that reaches them is its last.
    """

    def __init__(self, run_tokens: int, turn_tokens: int) -> None:
        self._run_tokens = run_tokens
        self._turn_tokens = turn_tokens
        self._first: deque[Item] = deque()
        self._rest: dict[Job, None] = {}
        """Jobs with rows beyond their first turn."""
        self._turn = 0.0
        """Start of the newest turn that was taken beyond a first one."""
        self._owed = 0
        """Tokens by which first turns are ahead of the rest, while both wait."""
        self.rows = 0
        self.tokens = 0
        self.first_tokens = 0
        """Tokens of first turns, out of `tokens`."""

    def push(self, job: Job) -> None:
        """Append a job: its first turn behind those that wait, its other rows a turn later than the newest."""
        size = self._first_turn(job)
        self._first.extend(job.items[:size])
        job.rest.extend(job.items[size:])
        for item in job.rest:
            item.first = False
        job.first_tokens = sum(item.length for item in job.items[:size])
        job.rest_tokens = job.tokens - job.first_tokens
        if job.rest:
            job.turn = self._turn + job.first_tokens / job.weight
            self._rest[job] = None
        self._count(job, 1)

    def drop(self, job: Job) -> bool:
        """Give a job up; return False if that was done before."""
        if job.dropped:
            return False
        job.dropped = True
        self._count(job, -1)
        self._rest.pop(job, None)
        job.rest.clear()
        job.items.clear()
        job.waiting = job.first_tokens = job.rest_tokens = 0
        return True

    def take(self, budget: int) -> list[Item]:
        """Remove and return the next row and what fits beside it: within `budget` tokens, padding included.

        One row is taken however long it is; none if nothing waits. All rows of a batch have one runner.
        """
        first, batch = self._window(WINDOW * budget), list[Item]()
        if not first or not self._rest:
            self._owed = 0
        if self._rest and (not first or self._owed > budget):
            self._fill(batch, self._upcoming(WINDOW * budget), budget)
            self._fill(batch, first, budget)
        elif first:
            self._fill(batch, first, budget)
            ends = any(not item.job.rest for item in batch)  # no job is held up by rows for which it would wait anyway
            self._fill(batch, self._upcoming(WINDOW * budget), min(budget, FILL * self._run_tokens) if ends else budget)
        taken = set(map(id, batch))
        self._first.extendleft(item for item in reversed(first) if id(item) not in taken)
        self._note(batch)
        return batch

    def ahead_of(self, job: Job) -> float:
        """Return the tokens that will be served before a new job is done, besides its own.

        Its first turn waits for others' first turns, and for as many tokens of the rest. Beyond it, the job shares with
        the rest by weight, and as many first turns as wait now are assumed to come again.
        """
        first = self.first_tokens
        shared: float = min(first, self.tokens - first)
        own = sum(item.length for item in job.items[self._first_turn(job) :])
        if not own:
            return first + shared
        beside = sum(min(other.rest_tokens, own * other.weight / job.weight) for other in self._rest)
        shared = max(shared, beside)
        return first + shared + min(first, shared + own)

    def clear(self) -> list[Job]:
        """Give up everything; return the jobs that are still wanted."""
        jobs = dict.fromkeys(item.job for item in self._first if not item.job.dropped) | self._rest
        for job in jobs:
            self.drop(job)
        self._first.clear()
        return list(jobs)

    def _first_turn(self, job: Job) -> int:
        """Return how many rows are in a job's first turn: one at least."""
        size, tokens = 0, 0
        while size < len(job.items) and (not size or tokens < self._turn_tokens * job.weight):
            tokens += job.items[size].length
            size += 1
        return size

    def _count(self, job: Job, sign: int) -> None:
        self.rows += sign * job.waiting
        self.tokens += sign * job.waiting_tokens
        self.first_tokens += sign * job.first_tokens

    def _window(self, tokens: int) -> list[Item]:
        """Take out the oldest rows of first turns: so many tokens, and one row at least."""
        window: list[Item] = []
        while self._first and (tokens > 0 or not window):
            item = self._first.popleft()
            if not item.job.dropped:
                window.append(item)
                tokens -= item.length
        return window

    def _upcoming(self, tokens: int) -> list[Item]:
        """Return the next rows beyond first turns, in order of turn: so many tokens, and one row at least."""
        window: list[Item] = []
        heap = [(job.turn, number, job, iter(job.rest)) for number, job in enumerate(self._rest)]
        heapify(heap)
        while heap and (tokens > 0 or not window):
            turn, number, job, rest = heap[0]
            if (item := next(rest, None)) is None:
                heappop(heap)
                continue
            window.append(item)
            tokens -= item.length
            heapreplace(heap, (turn + item.length / job.weight, number, job, rest))
        return window

    def _fill(self, batch: list[Item], window: Sequence[Item], budget: int) -> None:
        """Add the rows of a window that suit a batch; an empty one gets the first."""
        if not batch:
            batch += window[:1]
            window = window[1:]
        if batch:
            runner = batch[0].job.runner
            rows = [item for item in window if item.job.runner is runner]
            if runner.pads:
                _fill_alike(batch, rows, budget, self._run_tokens)
            else:
                _fill_in_order(batch, rows, budget)

    def _note(self, batch: Iterable[Item]) -> None:
        """Count what was taken."""
        for item in batch:
            job, length = item.job, item.length
            job.waiting -= 1
            self.rows -= 1
            self.tokens -= length
            self._owed += length if item.first else -length
            if item.first:
                job.first_tokens -= length
                self.first_tokens -= length
            else:
                self._serve(job, item)

    def _serve(self, job: Job, item: Item) -> None:
        job.rest.remove(item)
        job.rest_tokens -= item.length
        self._turn = max(self._turn, job.turn)
        job.turn += item.length / job.weight
        if not job.rest:
            del self._rest[job]


def _fill_in_order(batch: list[Item], rows: Iterable[Item], budget: int) -> None:
    tokens = sum(item.length for item in batch)
    for item in rows:
        if tokens + item.length <= budget:
            tokens += item.length
            batch.append(item)


def _fill_alike(batch: list[Item], rows: Iterable[Item], budget: int, run_tokens: int) -> None:
    """Add the rows most like the first of a batch, in their order among equals."""
    leader, longest = batch[0].length, max(item.length for item in batch)
    alike = [item for item in rows if abs(item.length - leader) <= run_tokens]
    alike.sort(key=lambda item: abs(item.length - leader))  # stable
    for item in alike:
        length = max(longest, item.length)
        padding = (length - longest) * len(batch) + length - item.length
        if padding > run_tokens or length * (len(batch) + 1) > budget:
            continue  # a later one may still fit, on the other side of the first
        longest = length
        batch.append(item)
