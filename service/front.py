"""The engines of a front: it has none of its own, but a connection to the engine process of each device.

To the rest of the service `Engines` looks like service.engine.Engine, and a `Handle` like models.session.Session. What
an engine process decides (admission, deadlines, failures) comes back as the error that it raised there. While one is
being restarted, its requests go to the other devices; without any, they get 503 at once.
"""

import asyncio
import logging
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from models.bundle import Bundle
from models.errors import BundleError
from models.row import Row
from service import frames
from service.admission import Limits, Load, check_room
from service.board import Board
from service.engine import MOST_LOGITS, Keeper
from service.errors import SHUTTING_DOWN, DeadlinePassed, ServiceError, SettingsError, Unavailable
from service.metrics import DROPPED, Metrics
from service.queue import Deadline, Job, Logits

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
"""Between attempts to reach an engine process."""
REOPEN_SECONDS = 1.0
"""Between attempts to open a bundle again that a restarted engine process refused."""
MAX_SILENCE = 5.0
"""Seconds without a sign of life after which an engine process counts as not ready."""
MAX_GRACE = 1.0
"""Seconds after a deadline in which the engine process may say where it passed."""
AT_ONCE = {"Retry-After": "1"}
LOST = "the engine process that had this request ended; send it again"


class LinkLost(Exception):
    """Raised when a connection ends while something waits for its answer."""


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


@dataclass(slots=True, eq=False)
class SentJob(Job):
    """A job that an engine process has."""

    link: "Link | None" = None
    number: int = 0


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
        self._stopping = False

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

    def stop(self, patience: float) -> None:
        """Give up what is under way, and leave the engine processes."""
        self._stopping = True
        self._news.set()
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
        """Wait until a link is connected, and return those that are; raise SettingsError if none will be."""
        while not (found := [link for link in self._links if link.connected]):
            if self._stopping:
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


class Link(asyncio.Protocol):
    """The connection to one engine process; made again when that has been replaced."""

    def __init__(self, engines: Engines, path: Path) -> None:
        self.path = path
        self.ready = False
        """Whether all that is served is open there."""
        self.sessions: dict[int, int] = {}
        """Numbers of sessions there, by those of handles."""
        self.jobs: dict[int, SentJob] = {}
        self.tokens = 0
        """Of all jobs."""
        self._engines = engines
        self._board: Board | None = None
        self._refusal = ""
        """Why it could not open what is served."""
        self._opening: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count(1)
        self._transport: asyncio.Transport | None = None
        self._lost = asyncio.Event()
        self._out: list[Any] = []
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect, now and whenever the connection has ended."""
        self._loop = loop
        self._task = loop.create_task(self._keep())

    def stop(self) -> None:
        """Leave."""
        if self._task:
            self._task.cancel()
        self._flush()
        if self._transport:
            self._transport.close()

    @property
    def connected(self) -> bool:
        """Whether the engine process is there."""
        return self._transport is not None

    @property
    def load(self) -> Load:
        """The newest state of the queue there."""
        assert self._board
        return self._board.load

    @property
    def obstacle(self) -> str:
        """Why the device can take no requests; empty if it can."""
        if self._refusal:
            return self._refusal
        if not self.ready or not self._board:
            return f"the engine process of {self.path.stem} is starting"
        silence = self._board.silence
        return f"the engine process of {self.path.stem} has been silent for {silence:.0f} s" * (silence > MAX_SILENCE)

    async def open(self, number: int, wanted: dict[str, Any]) -> dict[str, Any]:
        """Open a bundle; return what is known of its session. Raises BundleError, LinkLost."""
        if not self.connected:
            raise LinkLost
        self._opening[number] = opened = self._loop.create_future()
        like = self.sessions.get(wanted["like"], 0)
        self._send(frames.pack_json(frames.OPEN, wanted | {"ticket": number, "like": like}))
        try:
            told: dict[str, Any] = await opened
        finally:
            self._opening.pop(number, None)
        self.sessions[number] = told.pop("session")
        return told

    def close(self, number: int) -> None:
        """Let go of a bundle."""
        if session := self.sessions.pop(number, None):
            self._send(frames.pack_json(frames.CLOSE, session))

    def submit(self, job: SentJob, handle: int) -> None:
        """Send a job."""
        job.number = next(self._numbers)
        heads = {name: place for place, name in enumerate(self._engines.live[handle]["heads"])}
        self._send(frames.pack_request(job.number, self.sessions[handle], heads, job))
        job.items.clear()  # they refer to it: a cycle would keep it until garbage is collected
        self.jobs[job.number] = job
        self.tokens += job.tokens

    def drop(self, job: SentJob, reason: str) -> bool:
        """Have a job dropped; return False if the engine process does not know it."""
        if not self._forget(job.number):
            return False
        self._send(frames.frame(frames.DROP, frames.DROPPED.pack(job.number, DROPPED.index(reason))))
        return True

    def expire(self, job: SentJob) -> bool:
        """Have a job given up; return False if the engine process does not know it."""
        if job.number in self.jobs:
            self._send(frames.frame(frames.EXPIRE, frames.NUMBER.pack(job.number)))
        return job.number in self.jobs

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing."""
        self._transport = cast(asyncio.Transport, transport)
        self._lost.clear()
        self._engines.note_connected()
        self._frames = frames.Splitter(4 * MOST_LOGITS + self._engines.limits.queued_tokens * 16 + (1 << 20))

    def data_received(self, data: bytes) -> None:
        """Hand on the frames that are complete now."""
        for kind, body in self._frames.feed(data):
            if kind == frames.ANSWER:
                self._answer(*frames.unpack_answer(body))
            elif kind == frames.FAILURE:
                self._fail(*frames.unpack_failure(body))
            else:
                self._note_opened(kind, frames.unpack_json(body))

    def connection_lost(self, error: Exception | None) -> None:
        """Let everyone who waits know."""
        self.ready, self._transport, self._out = False, None, []
        self.sessions.clear()
        for job in list(self.jobs.values()):
            self._forget(job.number)
            self._engines.metrics.dropped.labels("lane").inc()
            self._engines.fail(job, Unavailable(LOST, headers=AT_ONCE))
        for waiting in self._opening.values():
            if not waiting.done():
                waiting.set_exception(LinkLost())
        self._lost.set()

    def _answer(self, number: int, started: float, finished: float, logits: list[Logits]) -> None:
        if (job := self._forget(number)) and not job.future.done():
            job.started_at, job.finished_at, job.link = started, finished, None
            job.future.set_result(logits)

    def _fail(self, number: int, started: float, error: ServiceError) -> None:
        if job := self._forget(number):
            job.started_at = started
            self._engines.fail(job, error)

    def _note_opened(self, kind: int, told: dict[str, Any]) -> None:
        waiting = self._opening.get(told.pop("ticket"))
        if waiting and not waiting.done():
            if kind == frames.OPENED:
                waiting.set_result(told)
            else:
                waiting.set_exception(BundleError(told["sentence"]))

    def _forget(self, number: int) -> SentJob | None:
        job = self.jobs.pop(number, None)
        if job:
            self.tokens -= job.tokens
        return job

    def _send(self, parts: list[Any]) -> None:
        """Send a frame, together with all others of this turn of the loop: each write is a system call."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out += parts

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport:
            self._transport.write(b"".join(out))

    # ---- the connection ----

    async def _keep(self) -> None:
        while True:
            with suppress(OSError, LinkLost):
                await self._loop.create_unix_connection(lambda: self, str(self.path))
                self._board = Board.open(self.path.with_suffix(".board"))
                await self._open_again()
                self.ready = True
                logger.info("connected to the engine process of %s", self.path.stem)
                await self._lost.wait()
                logger.warning("the connection to the engine process of %s is lost", self.path.stem)
            await asyncio.sleep(RETRY_SECONDS)

    async def _open_again(self) -> None:
        """Open what is served; until all is open there, the device gets no requests."""
        live = self._engines.live
        while missing := [number for number in live if number not in self.sessions]:
            try:
                await self.open(missing[0], live[missing[0]])
            except BundleError as error:
                if not self._refusal:
                    logger.error("the engine process of %s cannot open what is served: %s", self.path.stem, error)
                    self._engines.load_again()
                self._refusal = str(error)
                await asyncio.sleep(REOPEN_SECONDS)
        self._refusal = ""
