"""Scoring on the cores of this machine: this process reads chunks, and others answer, with one thread each."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Self

from training.errors import DataError, TrainingError
from training.run.process_pool import ProcessPool
from training.scoring.chunks import Chunk
from training.scoring.job import Job
from training.scoring.scorer import Scorer, Summary, every_chunk, written

AHEAD = 2
"""Chunks per process that are read before they are needed."""


def run(job: Job, processes: int) -> Iterator[Summary]:
    """Write the missing parts, and yield a summary of each chunk, in any order.

    Raise DataError at the end, after everything else is written, for files that could not be read to their ends. Raise
    TrainingError at once if a process dies.
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
    """Processes that score; they start with the first chunks, at most one per chunk."""

    def __init__(self, job: Job, processes: int) -> None:
        self._job = job
        self._processes = processes
        self._waiting: list[Chunk] = []
        """Chunks that came before the processes were started."""
        self._executor: ProcessPool | None = None
        self._pending: set[Future[Summary]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._executor:
            self._executor.__exit__(kind, error, traceback)  # a killed process leaves no half-written part

    def score(self, chunk: Chunk) -> Iterator[Summary]:
        """Submit a chunk, and yield finished ones; wait while enough chunks are in progress."""
        self._waiting.append(chunk)
        if self._executor or len(self._waiting) == self._processes:
            yield from self._submit(AHEAD * self._processes)

    def finish(self) -> Iterator[Summary]:
        """Yield the remaining chunks."""
        yield from self._submit(1)

    def _submit(self, limit: int) -> Iterator[Summary]:
        """Start waiting chunks, and yield finished ones until fewer than `limit` are in progress."""
        if self._waiting and not self._executor:
            self._executor = ProcessPool(len(self._waiting), prepare, self._job)
        try:
            while self._waiting and self._executor:
                self._pending.add(self._executor.submit(score_prepared, self._waiting.pop(0)))
            while len(self._pending) >= limit:
                finished, self._pending = wait(self._pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        except (BrokenProcessPool, MemoryError):
            raise TrainingError(
                f"one of {self._processes} processes was killed, perhaps for lack of memory; run the "
                "same command again, which continues, with fewer --processes"
            ) from None


_jobs: list[Job] = []
_scorers: list[Scorer] = []


def prepare(job: Job) -> None:
    """Prepare a process; the first chunk opens the bundle, so its errors reach the parent."""
    _jobs[:] = [job]


def score_prepared(chunk: Chunk) -> Summary:
    if not _scorers:
        _scorers.append(Scorer(_jobs[0]))
    return _scorers[0](chunk)
