"""The life of a service process: load in the background, become ready, drain, stop.

The port is open from the start, so that a probe sees a live process while bundles load. A worker that replaces another
is different: it takes no connections until it can answer, because the other workers can.
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
"""The header with which a request chooses a loaded bundle, as NAME/VERSION."""
TEXT_THREADS = 2
"""Threads for tokenizing and decoding that would block the event loop."""


class Service:
    """The state that all routes share; one per app."""

    def __init__(self, settings: Settings, metrics: Metrics, devices: Sequence[Path] = ()) -> None:
        """`devices`: the sockets of the engine processes if this is a front, which has no engine of its own."""
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
        """Why loading failed; if set, the server exits."""
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
        """Set the metrics of configured sizes and limits."""
        settings, metrics = self.settings, self.metrics
        metrics.workers.set(settings.worker_count)
        if not self._engines:
            metrics.expected_lanes.set(settings.worker_count * settings.lane_count)
            metrics.max_queue_tokens.set(settings.max_queued_tokens)
        metrics.max_memory.set(memory_limit())

    @property
    def heads(self) -> Snapshot:
        """The heads that are served; raises Unavailable while they load."""
        if self.served is None:
            raise Unavailable(f"loading: {self.progress}; ask /health/ready")
        return self.served

    async def loaded(self, deadline: Deadline) -> None:
        """Wait while bundles load, at most until the deadline; return at once if MAX_HELD requests wait already."""
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
        """Return the heads for a request: those of the bundle in X-Bundle, or the canary's for its share of requests.

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
        """Return the loading task; the first call starts it."""
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
        """Open a bundle, here or (for a front) in the engine processes; do not call on the event loop.

        `like`: the session that it will replace, if any. Raises BundleError.
        """
        if self._engines:
            return cast(Session, self._engines.open(bundle, cast(Handle | None, like)))
        if like:
            check_memory(bundle)
        return open_session(bundle, settings, like, settings.device[0])

    async def warm_lanes(self, session: Session) -> None:
        """Run all heads once on each lane. On CUDA, each thread creates its own stream and handle per graph."""
        if self.settings.provider == "cuda" and not self._engines:
            await self.engine.on_each_lane(session.warm_up)

    def _load_again(self) -> None:
        """Have all workers load the bundles again, because those on disk differ from those that are served."""
        if self.reload.control:
            self.reload.control.ask_for_all()

    def serve(self, heads: Snapshot) -> None:
        """Serve these heads from the next request on."""
        for gone in self.served.loaded if self.served else ():
            self.metrics.forget_bundle(gone.name, gone.session.precision, gone.session.provider)
        for loaded in heads.loaded:
            self.metrics.note_bundle(loaded.name, loaded.session.precision, loaded.session.provider, loaded.at)
            for head in loaded.heads:
                self.metrics.declare(head.name)
        self.drift.watch(heads.by_name)
        self.served = heads

    def trim_soon(self) -> None:
        """Return freed memory to the system once no request runs: the allocator keeps hundreds of MB of long texts."""
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_AFTER, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        if self.bodies.size:
            self.trim_soon()
        elif not self.draining:
            self.texts.submit(trim)

    def note_ready(self) -> None:
        """Set the metric `ready` to what /health/ready reports."""
        self.metrics.ready.set(0 if self.obstacles() else 1)

    def drain(self) -> None:
        """Report not ready, but continue to answer requests."""
        if not self.draining:
            logger.info("draining: no longer ready")
        self.draining = True
        if self._engines:
            self._engines.drain()
        self.note_ready()

    async def stop(self) -> None:
        """Give up waiting requests, end the lanes, and send the last spans."""
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
