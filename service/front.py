"""A front's view of the engines: a connection to the engine process of each device, in place of an own engine.

`Engines` has the methods of service.engine.Engine that the service needs, and `Handle` those of models.session.Session.
If an engine process refuses a request or fails, its error is raised here. While an engine process restarts, requests go
to the other devices; if there are none, they get 503 at once.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from models.bundle import Bundle
from models.row import Row
from service.admission import Limits, check_room
from service.errors import SHUTTING_DOWN, DeadlinePassed, ServiceError, SettingsError, Unavailable
from service.keeper import Keeper
from service.link import LOST, Link, LinkLost, SentJob
from service.metrics import Metrics
from service.queue import Deadline

MAX_GRACE = 1.0
"""Seconds after a deadline that a front waits for the engine process to report in which stage it passed."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A bundle that is open in the engine processes."""

    number: int
    precision: str
    provider: str
    max_length: int
    pads: bool
    is_wide: bool
    longest_gain: float

    def gain(self, tokens: int) -> float:
        """Return the speed-up of the longest row when it runs alone; 1 for shorter rows, whose gain is unknown here."""
        return self.longest_gain if tokens >= self.max_length else 1.0

    def warm_up(self, like: object = None) -> None:
        """Do nothing: the engine process has already warmed it up."""


class Engines(Keeper):
    """Sends jobs to the engine processes. All methods except `open` are called on the event loop of `start`."""

    def __init__(
        self,
        paths: Sequence[Path],
        limits: Limits,
        fronts: int,
        metrics: Metrics,
        load_again: Callable[[], None] = lambda: None,
    ) -> None:
        """`paths`: the sockets of the devices' engine processes. `fronts`: how many fronts share them.

        `load_again` is called if a new engine process cannot open the served bundles, as after a change on disk.
        """
        super().__init__(fronts)
        self.load_again = load_again
        self.limits = limits
        self.metrics = metrics
        self.live: dict[int, dict[str, Any]] = {}
        """The bundles to open on every device, by the number of their handle."""
        self._links = [Link(self, path) for path in paths]
        self._numbers = count(1)
        self._news = asyncio.Event()
        """Set when a link has connected, or when draining begins."""
        self._draining = self._stopping = False

    def start(self) -> None:
        """Connect to the engine processes as soon as they listen, and again after each restart."""
        self._loop = asyncio.get_running_loop()
        for link in self._links:
            link.start(self._loop)

    def open(self, bundle: Bundle, like: Handle | None = None) -> Handle:
        """Open and warm up a verified bundle on every device; raise BundleError. Takes seconds: call it on a thread.

        `like`: the bundle that it will replace, if any, which serves meanwhile.
        """
        wanted = {
            "directory": str(bundle.directory),
            "digest": bundle.digest,
            "heads": list(bundle.manifest.heads),
            "like": like.number if like else 0,
        }
        return asyncio.run_coroutine_threadsafe(self._open(wanted), self._loop).result()

    def troubles(self) -> list[str]:
        """Return an empty list: an engine process in trouble ends, and its supervisor starts another."""
        return []

    def obstacles(self) -> list[str]:
        """Return why no device can take requests; empty if one can."""
        found = [link.obstacle for link in self._links]
        return [each for each in found if each] if all(found) else []

    @property
    def waiting(self) -> float:
        """Rows that wait."""
        return sum(link.load.rows for link in self._links if link.ready)

    def submit(
        self,
        runner: Handle,
        calls: Sequence[tuple[str, Row]],
        deadline: Deadline,
        weight: float = 1.0,
        trace: Mapping[str, str] = MappingProxyType({}),
    ) -> SentJob:
        """Send the rows of a request to the least loaded device; see Engine.submit.

        Refusals, like other errors, become the exception of the job's future. Raises Unavailable if no device is ready.
        """
        if not calls:
            raise ValueError("a job without rows would never end")
        if self._stopping:
            raise Unavailable(SHUTTING_DOWN)
        link = self._least_loaded()
        if not link or runner.number not in link.sessions:
            raise Unavailable("; ".join(self.obstacles()) or LOST)
        future = self._loop.create_future()
        job = SentJob(runner, calls, deadline, future, time.monotonic(), weight, trace, link=link)  # type: ignore[arg-type]  # it runs elsewhere
        link.submit(job, runner.number)
        return job

    def check_room(self, tokens: int, deadline: Deadline) -> None:
        """Raise QueueFull if this many more tokens would wait too long on the least loaded device."""
        if link := self._least_loaded():
            load = link.load
            check_room(self.limits, load, tokens, load.least_ahead, deadline)

    def give_up(self, job: SentJob, reason: str, error: ServiceError) -> None:
        """Drop the waiting rows of a job, and end its future with `error`; do nothing if the job is done."""
        cancelled = job.future.cancelled()
        if (job.future.done() and not cancelled) or not job.link:
            return
        if not job.link.drop(job, reason):
            self.metrics.dropped.labels(reason).inc()  # no engine process counts it
        self.fail(job, error)

    def expire(self, job: SentJob) -> None:
        """Give up a job because its deadline has passed; wait briefly for the engine process to report the stage."""
        if job.link and job.link.expire(job):
            self._loop.call_later(MAX_GRACE, self._expire_here, job)
        else:
            self._expire_here(job)

    def drain(self) -> None:
        """Stop waiting for a first engine process: no request in flight depends on one that is not connected yet."""
        self._draining = True
        self._news.set()

    def stop(self, patience: float) -> None:
        """Give up all jobs, and disconnect from the engine processes."""
        self._stopping = True
        self.drain()
        for link in self._links:
            for job in list(link.jobs.values()):
                self.give_up(job, "draining", Unavailable(SHUTTING_DOWN))
            link.stop()

    def fail(self, job: SentJob, error: ServiceError) -> None:
        """End the future of a job, unless it has ended."""
        job.link = None
        if not job.future.done():
            job.future.set_exception(error)
            job.future.exception()  # mark it as retrieved: the waiting task may end before it does so

    def note_connected(self) -> None:
        """Wake the tasks that wait for a link."""
        self._news.set()

    def _wait(self) -> float:
        link = self._least_loaded()
        return link.load.seconds(link.load.tokens) if link else 0.0

    def _expire_here(self, job: SentJob) -> None:
        self.give_up(job, "deadline", DeadlinePassed("queue", job.deadline.seconds))

    def _least_loaded(self) -> "Link | None":
        ready = [link for link in self._links if link.ready]
        if len(ready) < 2:
            return ready[0] if ready else None
        return min(ready, key=lambda link: max(link.load.tokens + link.load.running, link.tokens))

    async def _open(self, wanted: dict[str, Any]) -> Handle:
        """Open a bundle on all connected devices; other devices open it when they connect."""
        number, told = next(self._numbers), dict[str, Any]()
        while missing := [link for link in await self._connected() if number not in link.sessions]:
            found = await asyncio.gather(*(link.open(number, wanted) for link in missing), return_exceptions=True)
            for each in found:
                if isinstance(each, dict):
                    told = each
                elif not isinstance(each, LinkLost):
                    self._close(number)
                    raise each
        self.live[number] = wanted | {"like": 0}
        handle = Handle(number, **told)
        weakref.finalize(handle, self._close_soon, number).atexit = False
        return handle

    async def _connected(self) -> "list[Link]":
        """Wait until a link is connected; return all links that are. Raises SettingsError if this front is draining."""
        while not (found := [link for link in self._links if link.connected]):
            if self._draining:
                raise SettingsError(SHUTTING_DOWN)
            self._news.clear()
            await self._news.wait()
        return found

    def _close_soon(self, number: int) -> None:
        """Release a bundle; may be called on any thread."""
        with suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._close, number)

    def _close(self, number: int) -> None:
        self.live.pop(number, None)
        for link in self._links:
            link.close(number)
