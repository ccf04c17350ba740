"""The queue of rows that wait for a lane. It chooses the rows of each batch so that no job blocks the others.

The first rows of a job are its first turn. First turns are served in order of arrival, so short requests wait only for
each other. The other rows are served job by job, with equal numbers of tokens (or in proportion to the jobs' weights).
This is start-time fair queueing (Goyal et al., 1996); like deficit round robin (Shreedhar & Varghese, 1995), it bounds
how far one job can get ahead of another. While rows of both kinds wait, each kind gets half of the tokens. So a single
short request waits for about one batch, and many short requests do not starve long ones.

A batch starts with the next row and adds the following rows that fit. If the runner pads rows to the longest, only rows
of similar length are added: those whose padding costs less than a separate run.
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
"""A batch is chosen from the next rows up to this many batches of tokens: this bounds how far rows overtake others."""
FILL = 4
"""Rows of long jobs fill a batch that would otherwise end sooner only up to this many times the fixed cost of a run."""


class Deadline(NamedTuple):
    """The time after which an answer is useless."""

    at: float
    """In seconds of time.monotonic."""
    seconds: float
    """Seconds from the arrival of the request to the deadline."""


class Runner(Protocol):
    """Runs batches; models.session.Session is one."""

    pads: bool
    """Whether rows are padded to the longest of the batch, so that a short row takes as long as a long one."""

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """Return the logits [positions of the row, labels] of each (head, row), in order."""

    def run_alone(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        """Return the same, computed on the cores of all lanes; for use while no other batch runs."""

    def gain(self, tokens: int) -> float:
        """Return the speed-up of `run_alone` over `run` for this many tokens; 1 if `run_alone` is not worthwhile."""


@dataclass(slots=True, eq=False)
class Job:
    """One request in the queue; its rows may go into several batches, together with rows of other requests."""

    runner: Runner
    calls: Sequence[tuple[str, Row]]
    """Pairs of a head's name and a row for it."""
    deadline: Deadline
    future: "asyncio.Future[list[Logits]]"
    """Gets the logits of each call, in order."""
    queued_at: float
    weight: float = 1.0
    """Share of the lanes' time, relative to other jobs."""
    trace: Mapping[str, str] = field(default_factory=dict)
    """Ids of the request's trace, for log lines and the span of a batch; see service.middleware.RequestInfo."""
    items: "list[Item]" = field(init=False)
    tokens: int = field(init=False)
    """Tokens of all rows; equal rows count once."""
    logits: dict[int, Logits] = field(default_factory=dict)
    """Logits of the calls that are done, by index of the call."""
    rest: "deque[Item]" = field(default_factory=deque)
    """Rows beyond the first turn that no lane has taken yet."""
    rest_tokens: int = 0
    first_tokens: int = 0
    """Tokens of the first turn that no lane has taken yet."""
    waiting: int = 0
    """Rows that no lane has taken yet."""
    turn: float = 0.0
    """Virtual start time of the next row of `rest`: tokens served so far, divided by the weight."""
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
    """Indices of the job's calls that share this row."""
    length: int
    """Tokens of the row."""
    key: RowKey
    first: bool = True
    """Whether it belongs to the job's first turn."""


class Queue:
    """Holds the waiting rows. Rows of dropped jobs no longer count, although they may be removed later.

    `run_tokens`: the fixed cost of a run, as the number of tokens that could be computed in that time.
    `turn_tokens`: the length of a first turn in tokens; the row that reaches it is the turn's last.
    """

    def __init__(self, run_tokens: int, turn_tokens: int) -> None:
        self._run_tokens = run_tokens
        self._turn_tokens = turn_tokens
        self._first: deque[Item] = deque()
        self._rest: dict[Job, None] = {}
        """Jobs with rows beyond their first turn."""
        self._turn = 0.0
        """Virtual time: the start of the newest turn, other than first turns, that was taken."""
        self._owed = 0
        """How many more tokens first turns got than the other rows, while both kinds wait."""
        self.rows = 0
        self.tokens = 0
        self.first_tokens = 0
        """Those of `tokens` that belong to first turns."""

    def push(self, job: Job) -> None:
        """Append a job: its first turn after the first turns that wait, its other rows one turn after the newest."""
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
        """Drop a job's waiting rows; return False if it was dropped before."""
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
        """Remove and return a batch: the next row, and others that fit into `budget` tokens, padding included.

        A batch has at least one row, however long, unless nothing waits. All its rows have the same runner.
        """
        first, batch = self._window(WINDOW * budget), list[Item]()
        if not first or not self._rest:
            self._owed = 0
        if self._rest and (not first or self._owed > budget):
            self._fill(batch, self._upcoming(WINDOW * budget), budget)
            self._fill(batch, first, budget)
        elif first:
            self._fill(batch, first, budget)
            ends = any(not item.job.rest for item in batch)  # a job in the batch ends with it, so do not delay it
            self._fill(batch, self._upcoming(WINDOW * budget), min(budget, FILL * self._run_tokens) if ends else budget)
        taken = set(map(id, batch))
        self._first.extendleft(item for item in reversed(first) if id(item) not in taken)
        self._note(batch)
        return batch

    def ahead_of(self, job: Job) -> float:
        """Return the tokens of other jobs that will be served before a new job is done.

        Its first turn waits for the other first turns, and for an equal number of other tokens. Its later rows share
        the lanes with the other jobs by weight; as many first turns as wait now are assumed to arrive again.
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
        """Drop all jobs; return those that had not been dropped before."""
        jobs = dict.fromkeys(item.job for item in self._first if not item.job.dropped) | self._rest
        for job in jobs:
            self.drop(job)
        self._first.clear()
        return list(jobs)

    def _first_turn(self, job: Job) -> int:
        """Return how many rows are in a job's first turn: at least one."""
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
        """Remove and return the oldest rows of first turns: about this many tokens, and at least one row."""
        window: list[Item] = []
        while self._first and (tokens > 0 or not window):
            item = self._first.popleft()
            if not item.job.dropped:
                window.append(item)
                tokens -= item.length
        return window

    def _upcoming(self, tokens: int) -> list[Item]:
        """Return the next rows beyond first turns, in order of turn: about this many tokens, and at least one row."""
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
        """Add the rows of a window that fit into a batch; an empty batch always gets the first one."""
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
        """Update the counts for the rows that were taken."""
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
    """Add the rows whose length is closest to that of the batch's first row; equally close ones keep their order."""
    leader, longest = batch[0].length, max(item.length for item in batch)
    alike = [item for item in rows if abs(item.length - leader) <= run_tokens]
    alike.sort(key=lambda item: abs(item.length - leader))  # stable
    for item in alike:
        length = max(longest, item.length)
        padding = (length - longest) * len(batch) + length - item.length
        if padding > run_tokens or length * (len(batch) + 1) > budget:
            continue  # a later row may still fit: shorter if this one is longer than the first, or vice versa
        longest = length
        batch.append(item)
