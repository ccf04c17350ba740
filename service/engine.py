"""The engine of a device: lanes (worker threads) that run batches, and the one queue from which they take them.

Batching is work-conserving and uses no timer: a free lane at once takes the rows that wait, or only its share of them
while other lanes are free too. Lanes are threads, since ONNX Runtime releases the GIL while it runs. Rows of different
heads share a batch if the heads share an encoder, and equal rows are computed once.
"""

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from models.row import Row
from service.admission import Limits, Load, check_room
from service.errors import (
    SHUTTING_DOWN,
    DeadlinePassed,
    FieldError,
    InferenceFailed,
    ServiceError,
    Unavailable,
    Unprocessable,
)
from service.keeper import Keeper
from service.logs import FIELDS
from service.metrics import Metrics
from service.queue import Deadline, Item, Job, Logits, Queue, Runner
from service.throughput import NEWEST, Throughput

if TYPE_CHECKING:
    from service.spans import Traces

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0005
"""Interval at which Python switches threads. With the default (5 ms), tokenizing a long text delays every step of a
short request."""
TURNS = 4
"""How many long requests can have their first turn in one batch."""

Outcome = list[Logits] | Exception
"""What one item got: the logits of each call that shares its row, or the error."""


class Lane(threading.Thread):
    """A worker thread that runs one batch at a time."""

    def __init__(self, name: str, work: Callable[["Lane"], None], niceness: int) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self._niceness = niceness
        """Added to the niceness of the process."""
        self.busy_since = 0.0
        """When it took its batch, in seconds of time.monotonic; 0 while it waits for one."""
        self.tokens = 0
        """Tokens of the current batch; equal rows count once."""
        self.gain = 1.0
        """Speed-up of the current batch over a normal one, because it runs alone on all cores (1.0 = none)."""
        self.chores: list[Callable[[], None]] = []
        """Work to do before its next batch."""

    def run(self) -> None:
        thread = threading.get_native_id()  # on Linux each thread has its own niceness
        with suppress(OSError, AttributeError):  # other systems do not support this
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + self._niceness)
        self._work(self)


class Engine(Keeper):
    """Runs jobs on its lanes. Methods are called on the event loop of `start`, except those marked "on the lanes"."""

    def __init__(
        self,
        limits: Limits,
        metrics: Metrics,
        traces: "Traces | None" = None,
        show: Callable[[Load], None] | None = None,
    ) -> None:
        """`show` is called on any thread with each new state of the queue; by default it updates the metrics."""
        super().__init__()
        self.limits = limits
        self.metrics = metrics
        self._traces = traces
        self._show = show or self.measure
        self._queue = Queue(limits.run_tokens, limits.batch_tokens // TURNS)
        self._changed = threading.Condition()
        self._lanes: list[Lane] = []
        self._idle = 0
        self._shared = False
        """Whether, when the newest batch was taken, another lane was busy or other rows waited."""
        self._stopping = False
        self._throughput = Throughput(limits.run_tokens)
        self._lag = 0.0
        """Seconds from the end of a batch until the event loop has its answers."""

    def start(self) -> None:
        """Start the lanes, and make the interpreter switch threads more often in this whole process."""
        sys.setswitchinterval(SWITCH_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._lanes = [Lane(f"lane-{number}", self._work, self.limits.niceness) for number in range(self.limits.lanes)]
        for lane in self._lanes:
            lane.start()
        self.metrics.lanes.set(len(self._lanes))

    def troubles(self) -> list[str]:
        """Return a sentence for each lane that died or hangs; empty if all is well."""
        late = time.monotonic() - self.limits.lane_timeout
        dead = [f"{lane.name} died; see the log" for lane in self._lanes if not lane.is_alive()]
        stuck = [
            f"{lane.name} has run one batch for more than {self.limits.lane_timeout:g} s"
            for lane in self._lanes
            if lane.is_alive() and 0.0 < lane.busy_since < late
        ]
        return [] if self._stopping else dead + stuck

    def obstacles(self) -> list[str]:
        """Return why this engine should get no requests; empty if it should."""
        return self.troubles()

    @property
    def waiting(self) -> int:
        """Rows that wait."""
        return self._queue.rows

    @property
    def load(self) -> Load:
        """The state of the queue."""
        queue, running = self._queue, sum(lane.tokens for lane in self._lanes)
        per_token = self._throughput.token_seconds / max(1, len(self._lanes))
        run = per_token * self.limits.run_tokens
        return Load(queue.rows, queue.tokens, queue.first_tokens, running, per_token, run, self._lag)

    def submit(
        self,
        runner: Runner,
        calls: Sequence[tuple[str, Row]],
        deadline: Deadline,
        weight: float = 1.0,
        trace: Mapping[str, str] = MappingProxyType({}),
    ) -> Job:
        """Queue the rows of a request, each with the name of its head. The job's future gets their logits in order.

        Equal rows are computed once, even for different heads. `weight` is the request's share of the lanes' time
        relative to others, and `trace` holds the ids of its trace. If the request cannot be answered, the future gets
        a ServiceError.
        Raises QueueFull, Unprocessable or Unavailable if the request is refused.
        """
        if not calls:
            raise ValueError("a job without rows would never end")
        job = Job(runner, calls, deadline, self._loop.create_future(), time.monotonic(), weight, trace)
        with self._changed:
            self._admit(job)
            self._queue.push(job)
            self._show(self.load)
            self._changed.notify(len(job.items))
        return job

    async def on_each_lane(self, work: Callable[[], object]) -> None:
        """Run `work` once on every living lane, before its next batch; raise the first error of `work`."""
        lanes = [lane for lane in self._lanes if lane.is_alive()]
        done = [self._loop.create_future() for _ in lanes]
        with self._changed:
            for lane, future in zip(lanes, done, strict=True):
                lane.chores.append(partial(self._do, work, future))
            self._changed.notify_all()
        await asyncio.gather(*done)

    def check_room(self, tokens: int, deadline: Deadline) -> None:
        """Raise QueueFull if this many more tokens exceed the queue, or would be answered after `deadline`.

        It assumes the shortest possible wait, that of the smallest request. Its cost does not depend on the queue.
        """
        load = self.load
        check_room(self.limits, load, tokens, load.least_ahead, deadline)

    def measure(self, load: Load) -> None:
        """Set the metrics of the queue."""
        self.metrics.queue_rows.set(load.rows)
        self.metrics.queue_tokens.set(load.tokens)

    def give_up(self, job: Job, reason: str, error: ServiceError) -> None:
        """Drop the waiting rows of a job and end its future with `error`; do nothing if the job is done."""
        cancelled = job.future.cancelled()  # together with the task that waited for it
        if job.future.done() and not cancelled:
            return
        with self._changed:
            self._queue.drop(job)
            self._show(self.load)
        self.metrics.dropped.labels(reason).inc()
        if not cancelled:
            job.future.set_exception(error)
            job.future.exception()  # mark it as retrieved: the waiting task may end before it does so

    def expire(self, job: Job) -> None:
        """Give up a job because its deadline has passed, or will pass before it could be answered."""
        where = "encode" if job.started_at else "queue"
        self.give_up(job, "deadline", DeadlinePassed(where, job.deadline.seconds))

    def stop(self, patience: float) -> None:
        """Give up all waiting jobs, then wait at most `patience` seconds for the lanes to finish their batches."""
        with self._changed:
            self._stopping = True
            abandoned = self._queue.clear()
            self._changed.notify_all()
        self._abandon(abandoned, "draining", SHUTTING_DOWN)
        end = time.monotonic() + patience
        for lane in self._lanes:
            lane.join(max(0.0, end - time.monotonic()))

    def _admit(self, job: Job) -> None:
        if self._stopping:
            raise Unavailable(SHUTTING_DOWN)
        if not any(lane.is_alive() for lane in self._lanes):
            raise Unavailable("no lane is alive; restart the service")
        limit = self.limits.queued_tokens
        if job.tokens > limit:
            message = f"makes {job.tokens} tokens, windows included, but at most {limit} may wait at a time; send less"
            raise Unprocessable([FieldError("inputs", message)])
        check_room(self.limits, self.load, job.tokens, self._queue.ahead_of(job), job.deadline)

    def _seconds(self, tokens: float) -> float:
        """Seconds that all lanes together take for this many tokens, at their recent speed."""
        return self._throughput.seconds(tokens) / max(1, len(self._lanes))

    def _wait(self) -> float:
        return self._seconds(self._queue.tokens)

    # ---- on the lanes ----

    def _work(self, lane: Lane) -> None:
        batch: list[Item] = []
        try:
            while batch := self._next_batch(lane):
                outcomes = self._run(batch, lane.gain > 1)
                finished = time.monotonic()
                self._tell_loop(partial(self._deliver, batch, outcomes, finished))
                if self._traces:
                    self._traces.batch(lane.name, batch, outcomes, (lane.busy_since, finished))
                batch, outcomes = [], []  # an idle lane must not keep the session of a replaced bundle alive
        except BaseException:
            logger.exception("%s died with %d rows in hand", lane.name, len(batch))
            lane.tokens = 0
            self._tell_loop(partial(self._bury, lane, batch))

    def _next_batch(self, lane: Lane) -> list[Item]:
        """Wait for work and return it; an empty list means that the engine stops."""
        with self._changed:
            while not self._stopping:
                if lane.chores:
                    self._do_chores(lane)
                batch = self._take()
                if lane.tokens:
                    self._note_pace(lane)
                if batch:
                    lane.busy_since, lane.tokens = time.monotonic(), _computed_tokens(batch)
                    lane.gain = batch[0].job.runner.gain(lane.tokens) if self._alone_again() else 1.0
                    for item in batch:
                        item.job.started_at = item.job.started_at or lane.busy_since
                    self._show(self.load)
                    return batch
                lane.busy_since, lane.tokens = 0.0, 0
                self._show(self.load)
                self._idle += 1
                self._changed.wait()
                self._idle -= 1
        return []

    def _do_chores(self, lane: Lane) -> None:
        """Run the lane's chores between two batches, without holding the lock."""
        if lane.tokens:
            self._note_pace(lane)
        lane.busy_since, lane.tokens = time.monotonic(), 0
        chores, lane.chores = lane.chores, []
        self._changed.release()
        try:
            for chore in chores:
                chore()
        finally:
            self._changed.acquire()

    def _do(self, work: Callable[[], object], done: "asyncio.Future[None]") -> None:
        try:
            work()
        except Exception as error:
            self._tell_loop(partial(_end, done, error))
        else:
            self._tell_loop(partial(_end, done, None))

    def _note_pace(self, lane: Lane) -> None:
        seconds = time.monotonic() - lane.busy_since
        self._throughput.add(lane.tokens, seconds * lane.gain)
        self.metrics.lane_busy.inc(seconds)

    def _alone_again(self) -> bool:
        """Return whether the batch just taken may use all cores: it and the one before it ran with no other work."""
        before, self._shared = self._shared, self._queue.rows > 0 or self._idle < len(self._lanes) - 1
        return len(self._lanes) > 1 and not before and not self._shared

    def _take(self) -> list[Item]:
        """Take a batch; give up those requests in it that would be answered after their deadline."""
        while batch := self._queue.take(self._budget()):
            now, seconds = time.monotonic(), self._throughput.seconds(_computed_tokens(batch))
            late = [item for item in batch if self._is_late(item.job, now, seconds)]
            if not late or not self._queue.rows:
                return batch  # the last one runs although it may be late: only a new batch corrects the measured speed
            for item in late:
                if self._queue.drop(item.job):
                    self._tell_loop(partial(self.expire, item.job))
            if len(late) < len(batch):
                return [item for item in batch if not item.job.dropped]
        return []

    def _is_late(self, job: Job, now: float, batch_seconds: float) -> bool:
        """Whether a job of this batch misses its deadline even if the lanes compute only its rows from then on."""
        return job.deadline.at < now + batch_seconds + self._seconds(job.waiting_tokens) + self._lag

    def _budget(self) -> int:
        """Tokens of the next batch: the limit, or an equal share of what waits while other lanes are free too."""
        share = math.ceil(self._queue.tokens / (self._idle + 1))
        return min(share, self.limits.batch_tokens) if self._idle else self.limits.batch_tokens

    def _run(self, batch: list[Item], alone: bool) -> list[Outcome]:
        runner = batch[0].job.runner
        run = runner.run_alone if alone else runner.run
        try:
            logits = iter(run([item.job.calls[index] for item in batch for index in item.indices]))
        except Exception as error:
            if len(batch) == 1:
                heads = ", ".join(batch[0].job.calls[index][0] for index in batch[0].indices)
                sentence, fields = "a row of %d tokens failed in head %s", {FIELDS: batch[0].job.trace}
                logger.exception(sentence, batch[0].length, heads, extra=fields)
                return [error]
            logger.warning("a batch of %d rows failed (%s); running them one by one", len(batch), error)
            self.metrics.failed_batches.inc()
            return [outcome for item in batch for outcome in self._run([item], False)]
        self._measure_batch(batch)
        return [[next(logits) for _ in item.indices] for item in batch]

    def _measure_batch(self, batch: Sequence[Item]) -> None:
        tokens = sum(item.length for item in batch)
        self.metrics.batches.inc()
        self.metrics.batch_rows.observe(len(batch))
        self.metrics.batch_tokens.observe(tokens)
        if batch[0].job.runner.pads:
            self.metrics.padding.inc(max(item.length for item in batch) * len(batch) - tokens)

    def _tell_loop(self, callback: Callable[[], None]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(callback)

    # ---- on the event loop, for the lanes ----

    def _deliver(self, batch: Iterable[Item], outcomes: Iterable[Outcome], finished: float) -> None:
        self._lag += (time.monotonic() - finished - self._lag) * NEWEST
        for item, outcome in zip(batch, outcomes, strict=True):
            job = item.job
            if isinstance(outcome, Exception):
                self.give_up(job, "failed", InferenceFailed("the model failed on this input; the log has the reason"))
            elif not job.future.done():
                job.logits |= zip(item.indices, outcome, strict=True)
                job.finished_at = finished
                if len(job.logits) == len(job.calls):
                    job.future.set_result([job.logits[index] for index in range(len(job.calls))])
                    job.items.clear()  # a reference cycle would keep the session until the next garbage collection

    def _bury(self, lane: Lane, batch: Iterable[Item]) -> None:
        lane.join(1.0)
        alive = sum(lane.is_alive() for lane in self._lanes)
        self.metrics.lanes.set(alive)
        jobs = [item.job for item in batch]
        if not alive:
            with self._changed:
                jobs += self._queue.clear()
        self._abandon(jobs, "lane", "the lane that ran this request died; send it again")

    def _abandon(self, jobs: Iterable[Job], reason: str, sentence: str) -> None:
        for job in jobs:
            self.give_up(job, reason, Unavailable(sentence))


def _end(done: "asyncio.Future[None]", error: Exception | None) -> None:
    if error and not done.done():
        done.set_exception(error)
    elif not done.done():
        done.set_result(None)


def _computed_tokens(batch: Iterable[Item]) -> int:
    """Return the tokens that the encoder computes; equal rows count once."""
    return sum(key.length for key in {item.key for item in batch})
