"""The engines of a front: it has none of its own, but a connection to the engine process of each device.

To the rest of the service `Engines` looks like service.engine.Engine, and a `Handle` like models.session.Session. What
an engine process decides (admission, deadlines, failures) comes back as the error that it raised there. While one is
being restarted, its requests go to the other devices; without any, they get 503 at once.
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
from service.link import AT_ONCE, LOST, Link, LinkLost, SentJob
from service.metrics import Metrics
from service.queue import Deadline

MAX_GRACE = 1.0
"""Seconds after a deadline in which the engine process may say where it passed."""


@dataclass(frozen=True, eq=False)
class Handle:
    """A bundle that the engine processes have open."""

    number: int
    precision: str
    provider: str
    max_length: int
    pads: bool
    is_wide: bool
    longest_gain: float

    def gain(self, tokens: int) -> float:
        """Return the speed-up of the longest row when it is alone; 1 for shorter ones, whose gain is not known here."""
        return self.longest_gain if tokens >= self.max_length else 1.0

    def warm_up(self, like: object = None) -> None:
        """Do nothing: the engine process has warmed it up."""


class Engines(Keeper):
    """Every method except `open` is called on the event loop that `start` found running."""

    def __init__(
        self,
        paths: Sequence[Path],
        limits: Limits,
        fronts: int,
        metrics: Metrics,
        load_again: Callable[[], None] = lambda: None,
    ) -> None:
        """`paths`: the sockets of the devices' engine processes. `fronts`: how many share them.

        `load_again` is called when a new engine process cannot open what is served, as after a change on disk.
        """
        super().__init__(fronts)
        self.load_again = load_again
        self.limits = limits
        self.metrics = metrics
        self.live: dict[int, dict[str, Any]] = {}
        """What to open on every device, by the number of its handle."""
        self._links = [Link(self, path) for path in paths]
        self._numbers = count(1)
        self._news = asyncio.Event()
        """Set when a link is connected, or never will be."""
        self._draining = self._stopping = False

    def start(self) -> None:
        """Connect to the engine processes as soon as they are there, and whenever they are again."""
        self._loop = asyncio.get_running_loop()
        for link in self._links:
            link.start(self._loop)

    def open(self, bundle: Bundle, like: Handle | None = None) -> Handle:
        """Have a verified bundle opened and warmed up on every device; raise BundleError. Takes seconds: on a thread.

        `like`: one that serves meanwhile.
        """
        wanted = {
            "directory": str(bundle.directory),
            "digest": bundle.digest,
            "heads": list(bundle.manifest.heads),
            "like": like.number if like else 0,
        }
        return asyncio.run_coroutine_threadsafe(self._open(wanted), self._loop).result()

    def troubles(self) -> list[str]:
        """Return nothing: an engine process that is in trouble ends, and its supervisor starts another."""
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
        """Send the rows of a request to the device with the least to do; see Engine.submit.

        What refuses the request comes as the exception of the job's future, as other errors do. Raises Unavailable.
        """
        if not calls:
            raise ValueError("a job without rows would never end")
        if self._stopping:
            raise Unavailable(SHUTTING_DOWN)
        link = self._least_loaded()
        if not link or runner.number not in link.sessions:
            raise Unavailable("; ".join(self.obstacles()) or LOST, headers=AT_ONCE)
        future = self._loop.create_future()
        job = SentJob(runner, calls, deadline, future, time.monotonic(), weight, trace, link=link)  # type: ignore[arg-type]  # it runs elsewhere
        link.submit(job, runner.number)
        return job

    def check_room(self, tokens: int, deadline: Deadline) -> None:
        """Raise QueueFull if so many more tokens would wait too long on the device with the least to do."""
        if link := self._least_loaded():
            load = link.load
            check_room(self.limits, load, tokens, load.least_ahead, deadline)

    def give_up(self, job: SentJob, reason: str, error: ServiceError) -> None:
        """Have what of a job waits dropped, and end its future with `error`; nothing happens if it is done."""
        cancelled = job.future.cancelled()
        if (job.future.done() and not cancelled) or not job.link:
            return
        if not job.link.drop(job, reason):
            self.metrics.dropped.labels(reason).inc()  # there is no engine process that counts it
        self.fail(job, error)

    def expire(self, job: SentJob) -> None:
        """Have a job given up because its deadline has passed; the engine process knows where, if it answers soon."""
        if job.link and job.link.expire(job):
            self._loop.call_later(MAX_GRACE, self._expire_here, job)
        else:
            self._expire_here(job)

    def drain(self) -> None:
        """Wait no longer for a first engine process: requests that are under way need none that is not there yet."""
        self._draining = True
        self._news.set()

    def stop(self, patience: float) -> None:
        """Give up what is under way, and leave the engine processes."""
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
            job.future.exception()  # marked as seen: the one who waits may leave before looking

    def note_connected(self) -> None:
        """Wake what waits for a link."""
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
        """Open a bundle on all devices that are connected; the others follow when they are."""
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
        """Wait until a link is connected, and return those that are; raise SettingsError if none will be.

        A front that is told to end does not wait.
        """
        while not (found := [link for link in self._links if link.connected]):
            if self._draining:
                raise SettingsError(SHUTTING_DOWN)
            self._news.clear()
            await self._news.wait()
        return found

    def _close_soon(self, number: int) -> None:
        """Let go of a bundle, from any thread."""
        with suppress(RuntimeError):  # the loop may have ended
            self._loop.call_soon_threadsafe(self._close, number)

    def _close(self, number: int) -> None:
        self.live.pop(number, None)
        for link in self._links:
            link.close(number)
