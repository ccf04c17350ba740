"""The engine process of a device: one queue, its lanes and its sessions, shared by all fronts.

A bundle is opened once, even if several fronts ask for it, and closed when no front uses it any more. If a lane is
lost, the process ends and the supervisor starts another. On SIGTERM, it ends when the last front has disconnected.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from models.bundle import Bundle, read_bundle
from models.errors import BertheadsError, BundleError
from models.session import Session
from service import frames
from service.admission import Limits
from service.board import Board, socket_path
from service.engine import Engine
from service.errors import ClientGone, InferenceFailed, ServiceError, SettingsError, Unavailable
from service.frame_protocol import FrameProtocol
from service.heads import open_session
from service.metric_files import MEMORY
from service.metrics import DROPPED, Metrics
from service.queue import Job, Logits
from service.reload import LOOKING, OPENING, check_memory, give_back_after, niced, run_on
from service.settings import Settings
from service.traces import open_traces

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.1
LOST = 2
"""Exit status of a process that lost a lane, as in service.server."""
REQUEST_BYTES = 32
"""Upper bound of the bytes that a token takes in a frame."""


@dataclass(eq=False)
class Opened:
    """An open session and its heads."""

    session: Session
    heads: list[str]
    """Names of the heads; requests refer to them by index."""


class Sessions:
    """Opens each bundle once, and counts its users."""

    def __init__(self, settings: Settings, device: int, engine: Engine) -> None:
        self._settings = settings
        self._device = device
        self._engine = engine
        self._tasks: dict[tuple[str, ...], asyncio.Task[Opened]] = {}
        self._users: dict[tuple[str, ...], int] = {}
        self._looker, self._opener = niced(LOOKING), niced(OPENING)

    async def open(self, directory: str, digest: str, heads: list[str], like: Session | None) -> Opened:
        """Return the session of a bundle, whose heads get these names. Call `close` once for each successful call.

        `like`: the session that it will replace, if any. Raises BundleError.
        """
        key = (digest, *heads)
        self._users[key] = self._users.get(key, 0) + 1
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._load(Path(directory), digest, heads, like))
        try:
            return await asyncio.shield(self._tasks[key])
        except BaseException:
            self.close(digest, heads)
            raise

    def close(self, digest: str, heads: list[str]) -> None:
        """Release a session once; it is dropped when its last user has released it."""
        key = (digest, *heads)
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key], self._tasks[key]

    async def _load(self, directory: Path, digest: str, heads: list[str], like: Session | None) -> Opened:
        if like is None:  # nothing is served yet, so loading cannot slow it down
            bundle = await asyncio.to_thread(_read, directory, digest, heads)
            session = await asyncio.to_thread(self._open, bundle, None)
            await asyncio.to_thread(session.warm_up)
        else:
            bundle = await run_on(self._looker, _read, directory, digest, heads)
            check_memory(bundle)
            session = await run_on(self._opener, self._open, bundle, like)
            await run_on(self._looker, session.warm_up, like)
        if session.provider == "cuda":  # on CUDA, each thread creates its own stream and handle per graph
            await self._engine.on_each_lane(session.warm_up)
        give_back_after(session)
        return Opened(session, heads)

    def _open(self, bundle: Bundle, like: Session | None) -> Session:
        return open_session(bundle, self._settings, like, self._device)


def _read(directory: Path, digest: str, heads: list[str]) -> Bundle:
    """Read a bundle that a front has read before, and give its heads the front's names; raise BundleError."""
    bundle = read_bundle(directory)
    if bundle.digest != digest:
        raise BundleError(
            f"{directory} has changed: its bundle.json has SHA-256 {bundle.digest}, expected {digest}; load it again"
        )
    manifest = bundle.manifest
    named = dict(zip(heads, manifest.heads.values(), strict=True))
    return replace(bundle, manifest=manifest.model_copy(update={"heads": named}))


class Device:
    """The engine process."""

    def __init__(self, settings: Settings, device: int, directory: Path) -> None:
        self.settings = settings
        self.path = socket_path(directory, device)
        self.metrics = Metrics()
        self.metrics.expected_lanes.set(len(settings.device) * settings.lane_count)
        self.metrics.max_queue_tokens.set(settings.max_queued_tokens)
        with self._saying_why():
            self.board = Board.create(self.path.with_suffix(".board"))
        self.traces = open_traces()
        self.engine = Engine(Limits.of(settings), self.metrics, self.traces, self.board.show)
        self.sessions = Sessions(settings, device, self.engine)
        self.connections: set[Connection] = set()
        self.numbers = count(1)
        self._end_at = float("inf")
        """When it ends even if fronts are still connected, in seconds of time.monotonic."""

    async def serve(self) -> int:
        """Serve until SIGTERM, and then the connected fronts until they disconnect; return the exit status."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        self.engine.start()
        with self._saying_why():
            server = await loop.create_unix_server(partial(Connection, self), str(self.path))
        while not (lost := self.engine.troubles()) and not self._is_over():
            self.board.beat()
            self.engine.measure(self.engine.load)
            await asyncio.sleep(BEAT_SECONDS)
        for sentence in lost:
            logger.error("%s", sentence)
        server.close()
        for connection in self.connections:
            connection.abort()
        self.engine.stop(1.0 if lost else self.settings.drain_timeout)
        if self.traces:
            self.traces.close(self.settings.drain_timeout)
        return LOST if lost else 0

    @contextmanager
    def _saying_why(self) -> Iterator[None]:
        """Raise SettingsError if the files with which fronts find this process cannot be created."""
        try:
            yield
        except OSError as error:
            raise SettingsError(
                f"cannot make {self.path} ({error}); make {MEMORY} writable with some room, or start with --workers 1"
            ) from None

    def _is_over(self) -> bool:
        now = time.monotonic()
        return now >= self._end_at or (self._end_at < float("inf") and not self.connections)

    def _stop(self) -> None:
        settings = self.settings
        self._end_at = min(self._end_at, time.monotonic() + settings.drain_delay + 2 * settings.drain_timeout)


class Connection(FrameProtocol):
    """The connection of one front."""

    def __init__(self, device: Device) -> None:
        super().__init__()
        self._device = device
        self._engine = device.engine
        self._jobs: dict[int, Job] = {}
        self._opened: dict[int, Opened] = {}
        self._keys: dict[int, tuple[str, list[str]]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._frames = frames.Splitter(device.settings.max_queued_tokens * REQUEST_BYTES + frames.MAX_JSON_BYTES)
        self._handlers: dict[int, Callable[[memoryview], None]] = {
            frames.REQUEST: self._request,
            frames.EXPIRE: self._expire,
            frames.DROP: self._drop,
            frames.OPEN: self._open,
            frames.CLOSE: self._close,
        }

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Register the front."""
        super().connection_made(transport)
        self._loop = asyncio.get_running_loop()
        self._device.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete now."""
        for kind, body in self._frames.feed(data):
            self._handlers[kind](body)

    def connection_lost(self, error: Exception | None) -> None:
        """Drop the front's jobs, and release its sessions."""
        self._device.connections.discard(self)
        self._transport = None
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            self._engine.give_up(job, "client_gone", ClientGone("the front ended"))
        for number in list(self._opened):
            self._let_go(number)

    def abort(self) -> None:
        """End the connection; the front then answers the requests in flight with an error."""
        if self._transport:
            self._transport.abort()

    # ---- requests ----

    def _request(self, body: memoryview) -> None:
        request = frames.unpack_request(body)
        if not (opened := self._opened.get(request.session)):
            error = Unavailable("the engine process has closed the bundle of this request; send it again")
            self._send(frames.pack_failure(request.number, 0.0, error))
            return
        heads = opened.heads
        calls = [(heads[head], row) for head, row in request.calls]
        try:
            job = self._engine.submit(opened.session, calls, request.deadline, request.weight, request.trace)
        except ServiceError as error:
            self._send(frames.pack_failure(request.number, 0.0, error))
            return
        self._jobs[request.number] = job
        job.future.add_done_callback(partial(self._done, request.number))

    def _done(self, number: int, future: "asyncio.Future[list[Logits]]") -> None:
        if not (job := self._jobs.pop(number, None)):
            return  # the front no longer waits for it
        error = future.exception()
        if not error:
            self._send(frames.pack_answer(number, job.started_at, job.finished_at, future.result()))
            return
        if not isinstance(error, ServiceError):
            error = InferenceFailed("the engine failed on this input; the log has the reason")
        self._send(frames.pack_failure(number, job.started_at, error))

    def _expire(self, body: memoryview) -> None:
        (number,) = frames.NUMBER.unpack(body)
        if job := self._jobs.get(number):
            self._engine.expire(job)

    def _drop(self, body: memoryview) -> None:
        number, reason = frames.DROPPED.unpack(body)
        if job := self._jobs.pop(number, None):
            self._engine.give_up(job, DROPPED[reason], ClientGone("the front gave it up"))

    # ---- bundles ----

    def _open(self, body: memoryview) -> None:
        task = self._loop.create_task(self._opened_for(frames.unpack_json(body)))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _opened_for(self, wanted: dict[str, Any]) -> None:
        ticket, digest, heads = wanted["ticket"], wanted["digest"], wanted["heads"]
        like = self._opened.get(wanted["like"])
        try:
            opened = await self._device.sessions.open(
                wanted["directory"], digest, heads, like.session if like else None
            )
        except BertheadsError as error:
            self._send(frames.pack_json(frames.REFUSED, {"ticket": ticket, "sentence": str(error)}))
            return
        except Exception as error:
            logger.exception("opening a bundle failed")
            sentence = f"loading failed: {error}"
            self._send(frames.pack_json(frames.REFUSED, {"ticket": ticket, "sentence": sentence}))
            return
        number = next(self._device.numbers)
        self._opened[number], self._keys[number] = opened, (digest, heads)
        if not self._transport:  # the front has disconnected meanwhile
            self._let_go(number)
            return
        session = opened.session
        told = {
            "ticket": ticket,
            "session": number,
            "precision": session.precision,
            "provider": session.provider,
            "max_length": session.max_length,
            "pads": session.pads,
            "is_wide": session.is_wide,
            "longest_gain": session.gain(session.max_length),
        }
        self._send(frames.pack_json(frames.OPENED, told))

    def _close(self, body: memoryview) -> None:
        self._let_go(frames.unpack_json(body))

    def _let_go(self, number: int) -> None:
        self._opened.pop(number)
        self._device.sessions.close(*self._keys.pop(number))


def serve(settings: Settings, device: int, directory: Path) -> int:
    """Run the engine process of a device; return the exit status."""
    from uvicorn.loops.auto import auto_loop_factory

    from models.onnx_runtime import flush_denormals
    from service import logs

    logs.configure(settings.log_level, settings.log_format)
    flush_denormals()  # before the lanes start
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):  # a terminal sends them to all processes
        signal.signal(number, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
        return runner.run(Device(settings, device, directory).serve())
