"""Several workers on one port: starts them, replaces one that dies, ends them all on a signal.

A worker that cannot load ends the whole if none ever could, else it is tried again while the others serve. Figures of
all workers meet in files of a directory in memory, from which a scrape of any worker adds them up.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

from service.metrics import MULTIPROCESS_DIRECTORY, ready_workers
from service.roll import Roll
from service.settings import Settings

logger = logging.getLogger(__name__)

MEMORY = Path("/dev/shm")
PAUSE = 1.0
"""Seconds before a dead worker is replaced, so that one that dies at once does not keep a core busy."""


class Supervisor:
    """Runs `settings.workers` processes until a signal."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self.settings = settings
        self.listener = listener
        self.workers: list[SpawnProcess] = []
        self.roll = Roll(settings, lambda: self._stopping)
        self.status = 0
        self._stopping = False
        self._woken, self._wake = os.pipe()
        """Ends a wait for workers."""
        self._been_ready = False
        """Whether any worker has ever been: then what one cannot load was good before, and may be again."""

    def run(self) -> int:
        """Return the exit status once all workers have ended."""
        in_memory = str(MEMORY) if os.access(MEMORY, os.W_OK) else None
        directory = Path(tempfile.mkdtemp(prefix="bertheads-metrics-", dir=in_memory))
        os.environ[MULTIPROCESS_DIRECTORY] = str(directory)
        signals = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # not under nohup
            signals.append(signal.SIGHUP)
        previous = {number: signal.signal(number, self._stop) for number in signals}
        previous[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._reload)
        try:
            for _ in range(self.settings.workers):
                self._start(load_first=False)
            while self.workers:
                waker = [] if self._stopping else [self._woken]
                pipes = self.roll.pipes.values()
                connection.wait([*waker, *pipes, *(worker.sentinel for worker in self.workers)], timeout=PAUSE)
                self.roll.serve()
                if self._stopping:
                    self.listener.close()  # else the kernel takes connections that no worker will
                self._been_ready = self._been_ready or ready_workers(directory) > 0
                self._replace_ended(directory)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            del os.environ[MULTIPROCESS_DIRECTORY]
            shutil.rmtree(directory, ignore_errors=True)
        return self.status

    def _start(self, load_first: bool) -> None:
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(
            target=run_worker, args=(self.roll.settings, self.listener, load_first, theirs), daemon=True
        )
        worker.start()
        theirs.close()  # so that the pipe ends with the worker
        self.roll.pipes[worker] = ours
        self.workers.append(worker)
        if self._stopping:  # the signal came before it was in the list
            worker.terminate()

    def _replace_ended(self, figures: Path) -> None:
        for worker in [worker for worker in self.workers if worker.exitcode is not None]:
            self.workers.remove(worker)
            self.roll.pipes.pop(worker, None)
            if worker.exitcode == 1 and not self._been_ready:
                self.status = 1
                self._stop(signal.SIGTERM, None)
            elif not self._stopping:
                logger.error("worker %s ended with status %s; starting another", worker.pid, worker.exitcode)
                time.sleep(PAUSE)
                self._start(load_first=ready_workers(figures) > 0)

    def _reload(self, sig: int, frame: FrameType | None) -> None:
        self.roll.wanted = True

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        os.write(self._wake, b".")
        for worker in self.workers:
            worker.terminate()


def run_worker(
    settings: Settings, listener: socket.socket, load_first: bool, pipe: "connection.Connection[Any, Any]"
) -> None:
    """Be one worker."""
    from service.server import serve  # not before the environment says where figures go, and never in the supervisor

    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(serve(settings, listener, load_first, pipe))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
