"""The outcome of a finished run: the number of rows, the errors, and repeated ids."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from training.scoring.job import Job
from training.scoring.parts import ids_and_errors, part_files

MAX_IDS = 1 << 24
"""Ids that are compared at once, 8 bytes each; for more rows, the parts are read several times."""
MAX_NAMED = 3


@dataclass
class Outcome:
    """Counts over all parts of a folder."""

    parts: int = 0
    rows: int = 0
    errors: int = 0
    named: list[str] = field(default_factory=list)
    """The first errors, each with its row."""
    repeated: int = 0
    """Rows with the id of an earlier row."""
    repeated_ids: list[str] = field(default_factory=list)
    """Some of these ids."""


def read_outcome(job: Job) -> Outcome:
    """Read the ids and errors of all parts."""
    found = Outcome(parts=len(part_files(job.out, job.form)))
    for id, error in _rows(job):
        found.rows += 1
        if error is not None:
            found.errors += 1
            if len(found.named) < MAX_NAMED:
                found.named.append(error if error.startswith((id, f"{id.rpartition(':')[0]}:")) else f"{id}: {error}")
    _count_repeated(job, found)
    return found


def _count_repeated(job: Job, found: Outcome) -> None:
    """Compare ids by hashes of 64 bits: bounded memory; ten million rows are miscounted with probability 10^-5."""
    passes = -(-found.rows // MAX_IDS)
    for turn in range(passes):
        hashes = (hash(id) for id, _ in _rows(job))
        some = np.fromiter((one for one in hashes if one % passes == turn), np.int64)
        values, counts = np.unique(some, return_counts=True)
        found.repeated += len(some) - len(values)
        if len(some) > len(values) and not found.repeated_ids:
            twice = set(values[counts > 1][:MAX_NAMED].tolist())
            found.repeated_ids = sorted({id for id, _ in _rows(job) if hash(id) in twice})


def _rows(job: Job) -> Iterator[tuple[str, str | None]]:
    return chain.from_iterable(map(ids_and_errors, part_files(job.out, job.form)))
