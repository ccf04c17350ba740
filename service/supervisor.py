"""Several workers on one port: starts them, replaces dead ones, and ends all of them on a signal.

If workers are fronts, it does the same for the engine process of each device; these end after the fronts have drained.

If a worker cannot load and no worker ever could, the service exits. Otherwise the worker is restarted while the others
serve. The pause before a restart grows if workers keep ending. All workers write their metrics to shared files
(service/metric_files.py).
"""

import logging
import math
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from models.errors import BertheadsError
from service.board import Board, socket_path
from service.metric_files import GAUGES, VARIABLE, collected, fold, hold, metric_directory
from service.metrics import ready_workers
from service.roll import Roll
from service.settings import Settings

logger = logging.getLogger(__name__)

MIN_PAUSE = 1.0
"""Seconds before a dead worker is replaced; doubled each time that a worker ends within HEALTHY_SECONDS."""
MAX_PAUSE = 60.0
HEALTHY_SECONDS = 60.0
LOOK_SECONDS = 1.0
END_SECONDS = 5.0
"""Seconds after its time for draining within which a worker must end."""
REASONS = {1: "could not load", 2: "lost a lane"}
"""Reasons by exit status of service.server.serve."""


@dataclass
class Worker:
    """A process, or the pause before it starts."""

    start_at: float
    """In seconds of time.monotonic."""
    pause: float = 0.0
    """Seconds of the last pause."""
    process: SpawnProcess | None = None
    device: int | None = None
    """The device of an engine process; None: the process answers requests."""

    @property
    def name(self) -> str:
        """The name in log lines."""
        kind = "worker" if self.device is None else f"engine process of device {self.device}"
        return f"{kind} {self.process.pid if self.process else ''}".rstrip()

    def back_off(self) -> None:
        """Double the pause before the next start, or reset it if the process was healthy for long enough."""
        now = time.monotonic()
        healthy = now - self.start_at >= HEALTHY_SECONDS
        self.pause = MIN_PAUSE if healthy else min(MAX_PAUSE, max(MIN_PAUSE, 2 * self.pause))
        self.start_at = now + self.pause


class Supervisor:
    """Runs `settings.worker_count` workers until a signal, and one engine process per device if they are fronts."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.workers: list[Worker] = []
        self.roll = Roll(settings, lambda: self._stopping)
        self.status = 0
        self._stopping = False
        self._kill_at = math.inf
        """When to kill workers that were told to end."""
        self._woken, self._wake = os.pipe()
        """Interrupts the wait for workers."""
        self._been_ready = False
        """Whether any worker has ever been ready: then a failure to load may be temporary."""

    def run(self) -> int:
        """Run until all workers have ended; return the exit status.

        Raises SettingsError if there is no space for metrics.
        """
        with metric_directory() as directory, self._signals():
            self.roll.tend = lambda: self._tend_engines(directory)
            now = time.monotonic()
            self.workers = [Worker(now, device=device) for device in self._devices]
            self.workers += [Worker(now) for _ in range(self.settings.worker_count)]
            while self._started() or not self._stopping:
                if self._stopping:
                    self.listener.close()  # otherwise the kernel accepts connections that no worker takes
                    self._kill_late()
                self._kill_silent(directory)
                ready = ready_workers(collected(directory, GAUGES))
                self._been_ready = self._been_ready or ready > 0
                self._replace_ended(self.workers, directory)
                self._end_engines()
                self._start_due(self.workers, ready, directory)
                waker = [] if self._stopping else [self._woken]
                sentinels = [process.sentinel for process in self._started()]
                connection.wait([*waker, *self.roll.pipes.values(), *sentinels], timeout=LOOK_SECONDS)
                self.roll.serve()
        return self.status

    @contextmanager
    def _signals(self) -> Iterator[None]:
        signals = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
            signals.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._stop) for number in signals}
        previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._reload)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def _devices(self) -> tuple[int, ...]:
        return self.settings.device if self.settings.has_fronts else ()

    def _started(self) -> list[SpawnProcess]:
        return [worker.process for worker in self.workers if worker.process]

    def _answering(self) -> list[SpawnProcess]:
        """Return the processes that answer requests."""
        return [worker.process for worker in self.workers if worker.process and worker.device is None]

    def _tend_engines(self, directory: Path) -> None:
        """Replace the engine processes that have ended or are silent, and no other worker."""
        engines = [worker for worker in self.workers if worker.device is not None]
        self._kill_silent(directory)
        self._replace_ended(engines, directory)
        self._start_due(engines, 0, directory)

    def _start_due(self, workers: Sequence[Worker], ready: int, directory: Path) -> None:
        """Start those whose pause is over; a worker loads before it takes connections, if another worker takes them."""
        for worker in workers:
            if worker.process is None and not self._stopping and time.monotonic() >= worker.start_at:
                load_first = ready > 0 or len(self._answering()) > 0
                worker.start_at = time.monotonic()
                if worker.device is None:
                    worker.process = self._start(load_first, directory)
                else:
                    worker.process = self._start_engine(worker.device, directory)
                if self._stopping:  # the signal came before the process was in the list
                    worker.process.terminate()

    def _start_engine(self, device: int, directory: Path) -> SpawnProcess:
        process = multiprocessing.get_context("spawn").Process(
            target=run_engine, args=(self.roll.settings, device, directory), daemon=True
        )
        process.start()
        return process

    def _start(self, load_first: bool, directory: Path) -> SpawnProcess:
        ours, theirs = multiprocessing.Pipe()
        sockets = [socket_path(directory, device) for device in self._devices]
        process = multiprocessing.get_context("spawn").Process(
            target=run_worker, args=(self.roll.settings, self.listener, load_first, theirs, sockets), daemon=True
        )
        process.start()
        theirs.close()  # so that the pipe closes when the worker ends
        self.roll.pipes[process] = ours
        return process

    def _replace_ended(self, workers: Sequence[Worker], directory: Path) -> None:
        for worker in workers:
            if worker.process is None or (status := worker.process.exitcode) is None:
                continue
            name, process, worker.process = worker.name, worker.process, None
            self.roll.pipes.pop(process, None)
            fold(directory, [each.pid for each in self._started() if each.pid], restarts=not self._stopping)
            if status == 1 and not self._been_ready:
                self.status = 1
                self._stop(signal.SIGTERM, None)
            elif not self._stopping:
                worker.back_off()
                logger.error("%s %s; starting another in %g s", name, reason(status), worker.pause)

    def _reload(self, sig: int, frame: FrameType | None) -> None:
        self.roll.wanted = True

    def _end_engines(self) -> None:
        """End the engine processes once all workers have ended."""
        if self._stopping and not self._answering():
            for process in self._started():
                process.terminate()

    def _kill_silent(self, directory: Path) -> None:
        """Kill an engine process without a heartbeat, such as one stopped by SIGSTOP; it is then replaced."""
        for worker in self.workers:
            if worker.process and worker.device is not None:
                with suppress(OSError):  # it has no board yet
                    board = Board.open(socket_path(directory, worker.device).with_suffix(".board"))
                    silence = min(board.silence, time.monotonic() - worker.start_at)
                    if silence > self.settings.lane_timeout:
                        logger.error("%s has been silent for %.0f s; killing it", worker.name, silence)
                        worker.process.kill()

    def _kill_late(self) -> None:
        """Kill workers that do not end in time, such as one stopped by SIGSTOP."""
        if time.monotonic() >= self._kill_at:
            for worker in self.workers:
                if worker.process:
                    logger.error("%s does not end; killing it", worker.name)
                    worker.process.kill()

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        patience = self.settings.drain_delay + 2 * self.settings.drain_timeout + END_SECONDS  # for requests, then lanes
        self._kill_at = min(self._kill_at, time.monotonic() + patience)
        os.write(self._wake, b".")
        for process in self._answering():
            process.terminate()


def reason(status: int) -> str:
    """Return why a worker ended, from its exit status."""
    if status == -signal.SIGKILL:
        return "was killed by SIGKILL (out of memory?)"
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return REASONS.get(status, f"ended with status {status}")


def run_worker(
    settings: Settings,
    listener: socket.socket,
    load_first: bool,
    pipe: "connection.Connection[Any, Any]",
    devices: Sequence[Path] = (),
) -> None:
    """Run a worker; it is a front if `devices` holds sockets."""
    from service.server import serve  # only in workers, after the environment variable for metrics is set

    _run(lambda: serve(settings, listener, load_first, pipe, devices))


def run_engine(settings: Settings, device: int, directory: Path) -> None:
    """Run the engine process of a device."""
    from service.device import serve  # as above

    _run(lambda: serve(settings, device, directory))


def _run(serve: Callable[[], int]) -> None:
    """Exit with the status that `serve` returns; end when the supervisor ends."""
    hold(Path(os.environ[VARIABLE]))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        sys.exit(serve())
    except BertheadsError as error:
        logger.error("%s", error)
        sys.exit(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
