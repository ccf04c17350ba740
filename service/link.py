"""A front's connection to the engine process of one device; it reconnects when that process was replaced."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import BundleError
from models.task import MAX_LOGITS
from service import frames
from service.admission import Load
from service.board import Board
from service.errors import ServiceError, Unavailable
from service.frame_protocol import FrameProtocol
from service.metrics import DROPPED
from service.queue import Job, Logits

if TYPE_CHECKING:
    from service.front import Engines

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.1
"""Seconds between attempts to connect to an engine process."""
REOPEN_SECONDS = 1.0
"""Seconds between attempts to open a bundle that a restarted engine process refused; fewer if a bundle is released."""
MAX_SILENCE = 5.0
"""An engine process counts as not ready after this many seconds without a heartbeat."""
LOST = "the engine process that had this request ended; send it again"


class LinkLost(Exception):
    """Raised if a connection ends while a task waits for its answer."""


@dataclass(slots=True, eq=False)
class SentJob(Job):
    """A job that was sent to an engine process."""

    link: "Link | None" = None
    number: int = 0


class Link(FrameProtocol):
    """One connection, and the jobs that wait for its answers."""

    def __init__(self, engines: "Engines", path: Path) -> None:
        super().__init__()
        self.path = path
        self.ready = False
        """Whether all served bundles are open there."""
        self.sessions: dict[int, int] = {}
        """Maps numbers of handles to numbers of the engine process's sessions."""
        self.jobs: dict[int, SentJob] = {}
        self.tokens = 0
        """Tokens of all jobs."""
        self._engines = engines
        self._board: Board | None = None
        self._refusal = ""
        """Why the engine process could not open a served bundle."""
        self._opening: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count(1)
        self._lost = asyncio.Event()
        self._closed = asyncio.Event()
        """Set when a bundle was released, or the connection has ended."""
        self._task: asyncio.Task[None] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect, and reconnect whenever the connection has ended."""
        self._loop = loop
        self._task = loop.create_task(self._keep())

    def stop(self) -> None:
        """Send what is buffered, and disconnect."""
        if self._task:
            self._task.cancel()
        self._flush()
        if self._transport:
            self._transport.close()

    @property
    def connected(self) -> bool:
        """Whether the engine process is connected."""
        return self._transport is not None

    @property
    def load(self) -> Load:
        """The newest state of the engine process's queue."""
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
        """Open a bundle; return the properties of its session. Raises BundleError, LinkLost."""
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
        """Release a bundle."""
        self._closed.set()
        if session := self.sessions.pop(number, None):
            self._send(frames.pack_json(frames.CLOSE, session))

    def submit(self, job: SentJob, handle: int) -> None:
        """Send a job."""
        job.number = next(self._numbers)
        heads = {name: place for place, name in enumerate(self._engines.live[handle]["heads"])}
        self._send(frames.pack_request(job.number, self.sessions[handle], heads, job))
        job.items.clear()  # a reference cycle would keep the job until the next garbage collection
        self.jobs[job.number] = job
        self.tokens += job.tokens

    def drop(self, job: SentJob, reason: str) -> bool:
        """Tell the engine process to drop a job; return False if it does not have the job."""
        if not self._forget(job.number):
            return False
        self._send(frames.frame(frames.DROP, frames.DROPPED.pack(job.number, DROPPED.index(reason))))
        return True

    def expire(self, job: SentJob) -> bool:
        """Tell the engine process that a job's deadline has passed; return False if it does not have the job."""
        if job.number in self.jobs:
            self._send(frames.frame(frames.EXPIRE, frames.NUMBER.pack(job.number)))
        return job.number in self.jobs

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Reset the state for a new connection."""
        super().connection_made(transport)
        self._lost.clear()
        self._engines.note_connected()
        self._frames = frames.Splitter(4 * MAX_LOGITS + self._engines.limits.queued_tokens * 16 + (1 << 20))

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete now."""
        for kind, body in self._frames.feed(data):
            if kind == frames.ANSWER:
                self._answer(*frames.unpack_answer(body))
            elif kind == frames.FAILURE:
                self._fail(*frames.unpack_failure(body))
            else:
                self._note_opened(kind, frames.unpack_json(body))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail all jobs and calls that wait for an answer."""
        self.ready, self._transport, self._out = False, None, []
        self.sessions.clear()
        for job in list(self.jobs.values()):
            self._forget(job.number)
            self._engines.metrics.dropped.labels("lane").inc()
            self._engines.fail(job, Unavailable(LOST))
        for waiting in self._opening.values():
            if not waiting.done():
                waiting.set_exception(LinkLost())
        self._lost.set()
        self._closed.set()

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
        """Open all served bundles; until all are open, the device gets no requests."""
        live = self._engines.live
        while missing := [number for number in live if number not in self.sessions]:
            self._closed.clear()
            try:
                await self.open(missing[0], live[missing[0]])
            except BundleError as error:
                if not self._refusal:
                    logger.error("the engine process of %s cannot open what is served: %s", self.path.stem, error)
                    self._engines.load_again()
                self._refusal = str(error)
                with suppress(TimeoutError):
                    async with asyncio.timeout(REOPEN_SECONDS):
                        await self._closed.wait()
        self._refusal = ""
