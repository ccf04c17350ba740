"""From start to stop: load in the background, be ready, drain.

The port is open from the first moment, so that a probe sees a live process while bundles load; but a worker that
replaces another takes no connection before it can answer, for there are others that can.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

from models.bundle import Bundle
from models.cgroup import memory_limit
from models.errors import BertheadsError
from models.session import Session
from service.admission import Limits
from service.drift import Drift
from service.engine import Engine
from service.errors import Unavailable
from service.front import Engines, Handle
from service.heads import Heads, Snapshot, load_heads, open_session
from service.metrics import Metrics
from service.queue import Deadline
from service.reload import TRIM_AFTER, Reload, check_memory, give_back_after, trim
from service.request_body import Bodies
from service.samples import Samples
from service.settings import Settings
from service.shadow import Shadow
from service.traces import open_traces

logger = logging.getLogger(__name__)

MAX_HELD = 1000
"""Requests that may wait while bundles load. None of them has a body in memory yet."""
PIN = "x-bundle"
"""The header by which a request chooses a bundle that is loaded, as NAME/VERSION."""
TEXT_THREADS = 2
"""Threads for tokenising and decoding what would hold up the event loop."""


class Service:
    """What the routes share; one an app."""

    def __init__(self, settings: Settings, metrics: Metrics, devices: Sequence[Path] = ()) -> None:
        """`devices`: the sockets of engine processes, for a front, which has no engine of its own."""
        self.settings = settings
        self.metrics = metrics
        self.traces = open_traces()
        limits = Limits.of(settings)
        fronts = settings.worker_count
        self._engines = Engines(devices, limits, fronts, metrics, self._load_again) if devices else None
        # Engines has the methods of Engine that the service calls.
        self.engine = cast(Engine, self._engines) if self._engines else Engine(limits, metrics, self.traces)
        self._declare_limits()
        self.bodies = Bodies()
        self.texts = ThreadPoolExecutor(TEXT_THREADS, thread_name_prefix="text")
        self.progress = "starting"
        self.failure: str | None = None
        """Why loading failed; the server ends with it."""
        self.draining = False
        self.served: Snapshot | None = None
        """None while bundles load."""
        self._held = 0
        """Requests that wait for heads to load."""
        self.reload = Reload(self)
        self.shadow = Shadow(self)
        self.drift = Drift(metrics)
        self.samples = Samples(settings, metrics) if settings.sample_file else None
        self._loading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._trimming: asyncio.TimerHandle | None = None

    def _declare_limits(self) -> None:
        """Let the metrics say how much there should be, and may be."""
        settings, metrics = self.settings, self.metrics
        metrics.workers.set(settings.worker_count)
        if not self._engines:
            metrics.expected_lanes.set(settings.worker_count * settings.lane_count)
            metrics.max_queue_tokens.set(settings.max_queued_tokens)
        metrics.max_memory.set(memory_limit())

    @property
    def heads(self) -> Snapshot:
        """What is served; raise Unavailable while it loads."""
        if self.served is None:
            raise Unavailable(f"loading: {self.progress}; ask /health/ready", headers={"Retry-After": "1"})
        return self.served

    async def loaded(self, deadline: Deadline) -> None:
        """Wait while bundles load, until the deadline; return at once if many wait already."""
        if self.served is None and self._held < MAX_HELD:
            self._held += 1
            try:
                async with asyncio.timeout(deadline.at - time.monotonic()):
                    await asyncio.shield(self.loading())
            except TimeoutError:
                pass
            finally:
                self._held -= 1

    def heads_for(self, headers: Mapping[str, str], request_id: str) -> Heads:
        """Return the heads for a request: of the bundle that X-Bundle names, or the canary's for its part of requests.

        Raises Unavailable while bundles load, and NotFound for a bundle that is not loaded.
        """
        pin = headers.get(PIN)
        if pin is not None:
            return self.heads.pinned(pin)
        key = headers.get(self.settings.canary_by) if self.settings.canary_by else None
        return self.heads.part(key or request_id, self.settings.canary_percent)

    def obstacles(self) -> list[str]:
        """Return why this worker is not ready; empty if it is."""
        if self.served is None:
            return [f"loading: {self.progress}"]
        return (["draining"] if self.draining else []) + self.engine.obstacles()

    def loading(self) -> asyncio.Task[None]:
        """Return the task that loads, which begins with the first call."""
        if self._loading is None:
            if self.reload.control:
                self.reload.control.start()
            self._loading = asyncio.create_task(self._load())
        return self._loading

    async def _load(self) -> None:
        """Load all bundles and become ready; if one fails, log it and set `failure`."""
        started = time.monotonic()
        self.engine.start()
        try:
            heads = await asyncio.to_thread(load_heads, self.settings, self._report, self.open_session)
            for loaded in heads.loaded:
                await self.warm_lanes(loaded.session)
        except BertheadsError as error:
            if self.draining:
                return
            logger.error("%s", error)
            self.failure = str(error)
            return
        except Exception as error:
            logger.exception("loading failed")
            self.failure = f"loading failed: {error}"
            return
        for loaded in heads.loaded:
            give_back_after(loaded.session)
        self.serve(heads)
        self._watching = asyncio.create_task(self.reload.watch())
        self.note_ready()
        names = ", ".join(heads.by_name)
        logger.info("ready after %.1f s with %d lanes: %s", time.monotonic() - started, self.settings.lane_count, names)

    def open_session(self, bundle: Bundle, settings: Settings, like: Session | None = None) -> Session:
        """Open a bundle here or by its handle; `like`: the one that serves until then. Not on the event loop."""
        if self._engines:
            return cast(Session, self._engines.open(bundle, cast(Handle | None, like)))
        if like:
            check_memory(bundle)
        return open_session(bundle, settings, like, settings.device[0])

    async def warm_lanes(self, session: Session) -> None:
        """Let each lane run all heads: on CUDA a thread makes a stream and a handle of its own for each graph."""
        if self.settings.provider == "cuda" and not self._engines:
            await self.engine.on_each_lane(session.warm_up)

    def _load_again(self) -> None:
        """Let all workers load what is on disk now: it is not what is served."""
        if self.reload.control:
            self.reload.control.ask_for_all()

    def serve(self, heads: Snapshot) -> None:
        """Answer with these from the next request on."""
        for gone in self.served.loaded if self.served else ():
            self.metrics.forget_bundle(gone.name, gone.session.precision, gone.session.provider)
        for loaded in heads.loaded:
            self.metrics.note_bundle(loaded.name, loaded.session.precision, loaded.session.provider, loaded.at)
            for head in loaded.heads:
                self.metrics.declare(head.name)
        self.drift.watch(heads.by_name)
        self.served = heads

    def trim_soon(self) -> None:
        """Give memory back once no request is under way: after long texts the allocator keeps hundreds of megabytes."""
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_AFTER, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        if self.bodies.size:
            self.trim_soon()
        elif not self.draining:
            self.texts.submit(trim)

    def note_ready(self) -> None:
        """Let the metrics say what /health/ready says."""
        self.metrics.ready.set(0 if self.obstacles() else 1)

    def drain(self) -> None:
        """Be not ready, but answer still."""
        if not self.draining:
            logger.info("draining: not ready any more")
        self.draining = True
        if self._engines:
            self._engines.drain()
        self.note_ready()

    async def stop(self) -> None:
        """Give up what still waits, end the lanes, and send the last spans."""
        end = time.monotonic() + self.settings.drain_timeout
        self.drain()
        self.reload.stop()
        if self._watching:
            self._watching.cancel()
        self.texts.shutdown(wait=False, cancel_futures=True)
        self.engine.stop(self.settings.drain_timeout)
        if self.samples:
            self.samples.close()
        if self.traces:
            self.traces.close(max(0.0, end - time.monotonic()))

    def _report(self, progress: str) -> None:
        self.progress = progress
        logger.info("%s", progress)
