"""The supervisor's part of a change of bundles (two-phase commit).

All workers load the new bundle, one after another; then all of them swap it in, or none does. If a worker refuses a
bundle, the workers after it do not load it. A worker that starts later gets the bundles that are served then.

A request for a change waits for changes that no request asked for: those of a signal, of --watch, or of a new engine
process. If another request already waits or is being carried out, it gets BUSY.
"""

import logging
import time
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from service.errors import SHUTTING_DOWN
from service.reload import BUSY, Change, Outcome, Watch
from service.settings import Settings

logger = logging.getLogger(__name__)

MAX_SECONDS = 600.0
"""Maximum seconds that a worker may take to load a bundle."""
PAUSE = 1.0
"""Seconds between checks whether the supervisor stops."""


class Roll:
    """Makes changes in all workers, through their pipes. All methods are called on the supervisor's only thread."""

    def __init__(self, settings: Settings, stopping: Callable[[], bool]) -> None:
        self.settings = settings
        """The settings, with the bundles that are served now."""
        self.pipes: dict[SpawnProcess, Connection[Any, Any]] = {}
        self.wanted = False
        """Whether a signal asked to load all bundles again."""
        self.tend: Callable[[], None] = lambda: None
        """Called while a change waits for a worker: it replaces engine processes, without which no front can load."""
        self._asked: tuple[Connection[Any, Any], int, Change] | None = None
        """The change that a request asked for, with its worker's pipe and ticket."""
        self._stopping = stopping
        self._number = 0
        """Number of the newest step; an answer with another number is a late one and is ignored."""
        self._watch = Watch(settings.directories)
        self._next_look = time.monotonic() + settings.watch

    def serve(self) -> None:
        """Make the changes that workers or a signal asked for, or that a replaced bundle on disk requires."""
        for pipe in list(self.pipes.values()):
            while message := self._receive(pipe):
                self._note(pipe, message)
        if self.wanted:
            self.wanted = False
            self._roll_all(self.settings.directories)
        if self.settings.watch and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self.settings.watch
            self._roll_all(self._watch.changed(self.settings.directories))
        if self._asked:
            pipe, ticket, change = self._asked
            self._send(pipe, ("answer", ticket, self.roll(change)))
            self._asked = None

    def _note(self, pipe: "Connection[Any, Any]", message: tuple[Any, ...]) -> None:
        """Keep what a worker asks for; answer BUSY if another request already waits for its change."""
        if message[0] == "all":
            self.wanted = True
        elif message[0] == "ask" and self._asked:
            self._send(pipe, ("answer", message[1], BUSY))
        elif message[0] == "ask":
            self._asked = pipe, message[1], message[2]

    def roll(self, change: Change) -> Outcome:
        """Make a change in all workers, or in none."""
        outcome = Outcome("refused", "no worker runs")
        for worker, pipe in list(self.pipes.items()):
            outcome = self._step(worker, pipe, "prepare", change)
            if outcome.result != "ok":
                for each in self.pipes.values():
                    self._send(each, ("abort",))
                return outcome
        for place, (worker, pipe) in enumerate(list(self.pipes.items())):
            self._step(worker, pipe, "commit", place == 0)
        self.settings = changed(self.settings, change)
        return outcome

    def _roll_all(self, sources: list[Path]) -> None:
        for source in sources:
            outcome = self.roll(Change(source, source))
            if outcome.result != "ok":
                logger.error("%s was not loaded again; the old bundle is still served: %s", source, outcome.sentence)

    def _step(self, worker: SpawnProcess, pipe: "Connection[Any, Any]", step: str, argument: object) -> Outcome:
        """Have a worker take a step, and wait for its answer; meanwhile, note what workers ask for."""
        self._number += 1
        self._send(pipe, (step, self._number, argument))
        end = time.monotonic() + MAX_SECONDS
        while time.monotonic() < end and not self._stopping():
            found = connection.wait([*self.pipes.values(), worker.sentinel], timeout=PAUSE)
            for other in [each for each in self.pipes.values() if each in found]:
                message = self._receive(other)
                if message and message[0] == "done" and message[1] == self._number:
                    outcome: Outcome = message[2]
                    return outcome
                if message:
                    self._note(other, message)
            self.tend()
            if worker.sentinel in found:
                return Outcome("refused", f"worker {worker.pid} died while it loaded; its log says why")
        late = f"worker {worker.pid} did not load it in time; see its log"
        return Outcome("refused", SHUTTING_DOWN if self._stopping() else late)

    def _receive(self, pipe: "Connection[Any, Any]") -> Any:
        """Return a message if there is one, otherwise None; forget the pipe of a worker that ended."""
        try:
            return pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            self.pipes = {worker: each for worker, each in self.pipes.items() if each is not pipe}
            return None

    def _send(self, pipe: "Connection[Any, Any]", message: object) -> None:
        try:
            pipe.send(message)
        except OSError:
            logger.debug("a worker ended before a message could be sent to it")


def changed(settings: Settings, change: Change) -> Settings:
    """Return the settings after a change.

    A canary or a shadow may have the directory of the bundle that is replaced; it stays, as in `Snapshot.replace`.
    """
    sources = [*settings.bundles, settings.canary, settings.shadow]
    if change.old and change.old in sources:
        sources[sources.index(change.old)] = change.new
    *bundles, canary, shadow = sources
    added = [] if change.old else [change.new]
    served = tuple(source for source in [*bundles, *added] if source)
    update = {"bundles": served, "canary": canary, "shadow": shadow}
    return settings.with_names(change.rename).model_copy(update=update)
