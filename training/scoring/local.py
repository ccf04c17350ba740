"""Scoring on the cores of this machine: this process reads and divides, others answer, one thread each."""

import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from types import TracebackType
from typing import Self

from training.errors import DataError, TrainingError
from training.run.interruption import follow_parent
from training.scoring.chunks import Chunk
from training.scoring.job import Job
from training.scoring.scorer import Scorer, Summary, every_chunk, written

AHEAD = 2
"""Chunks per process that are read before they are needed."""


def run(job: Job, processes: int) -> Iterator[Summary]:
    """Write the parts that are missing, and yield what became of each chunk, in any order.

    Raises at the end, after everything else is written, DataError for files that could not be read to theirs; at once
    TrainingError where a process dies.
    """
    done = written(job)
    unreadable: DataError | None = None
    with Pool(job, processes) as pool:
        found = every_chunk(job)
        while True:
            try:
                chunk = next(found, None)
            except DataError as error:
                unreadable, chunk = error, None
            if chunk is None:
                break
            if chunk.part in done:
                yield Summary(chunk.part, 0, 0, 0, chunk.size)
            else:
                yield from pool.score(chunk)
        yield from pool.finish()
    if unreadable:
        raise unreadable


class Pool:
    """Processes that score; they start with the first chunks, no more of them than there are chunks."""

    def __init__(self, job: Job, processes: int) -> None:
        self._job = job
        self._processes = processes
        self._waiting: list[Chunk] = []
        """Chunks that came before the processes were started."""
        self._executor: ProcessPoolExecutor | None = None
        self._pending: set[Future[Summary]] = set()

    def __enter__(self) -> Self:
        self._before = set(active_children())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if not self._executor:
            return
        if kind:
            for process in set(active_children()) - self._before:
                process.kill()  # a part appears whole or not at all
            # Before CPython 3.11.7, a chunk that is on its way to a process which died blocks the thread that sends it.
            self._executor._call_queue._reader.close()  # type: ignore[attr-defined]
        self._executor.shutdown(cancel_futures=True)

    def score(self, chunk: Chunk) -> Iterator[Summary]:
        """Take a chunk, and yield what is finished; waits while enough chunks are under way."""
        self._waiting.append(chunk)
        if self._executor or len(self._waiting) == self._processes:
            yield from self._submit(AHEAD * self._processes)

    def finish(self) -> Iterator[Summary]:
        """Yield the rest."""
        yield from self._submit(1)

    def _submit(self, limit: int) -> Iterator[Summary]:
        """Begin what waits, and yield what is finished until fewer than `limit` chunks are under way."""
        if self._waiting and not self._executor:
            self._executor = self._started(len(self._waiting))
        try:
            while self._waiting and self._executor:
                self._pending.add(self._executor.submit(score_prepared, self._waiting.pop(0)))
            while len(self._pending) >= limit:
                finished, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        except (BrokenProcessPool, MemoryError):
            raise TrainingError(
                f"one of {self._processes} processes was ended from outside, by a lack of memory perhaps; start the "
                "same command again, which goes on, with fewer --processes"
            ) from None

    def _started(self, processes: int) -> ProcessPoolExecutor:
        # spawn: a forked process would inherit the locks of the engine's threads
        return ProcessPoolExecutor(processes, get_context("spawn"), prepare, (self._job,))


_jobs: list[Job] = []
_scorers: list[Scorer] = []


def prepare(job: Job) -> None:
    """Make a process ready; the first chunk opens the bundle, so that an error of it reaches the parent."""
    follow_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _jobs[:] = [job]


def score_prepared(chunk: Chunk) -> Summary:
    if not _scorers:
        _scorers.append(Scorer(_jobs[0]))
    return _scorers[0](chunk)
