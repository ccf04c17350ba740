"""Scoring by Ray Data: embedded, on the cores of this machine, or unchanged on a cluster.

A reader turns one file into chunks. An actor, which holds the bundle, answers one chunk per call and writes its part;
only the summary comes back. So the parts are the checkpoint: a call that Ray repeats replaces its own part, and runs
with and without Ray continue each other. Ray Data's own checkpoint would hold all ids in memory and filter rows in an
actor more: on two CPUs, that actor and ours leave none for the reader, and a run that goes on hangs.
"""

import pickle
import socket
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow

from models.errors import BertheadsError
from training.errors import DataError
from training.run.atomic_files import hash_of
from training.scoring.chunks import Chunk, chunks
from training.scoring.job import Job
from training.scoring.ray_cluster import EMBEDDED, connected, first_sentence, ray, resource
from training.scoring.scorer import Scorer, Summary

MAX_SILENCE = 900
"""Seconds without a chunk that is read or answered, after which a run ends. An autoscaler takes minutes for a node."""
CPUS_PER_READER = 8
"""Of the cluster. A reader is much faster than an actor."""

Digests = Mapping[Path, str]


class Failure(NamedTuple):
    """What went wrong on a node, as a value: Ray would wrap an exception into its own stack traces."""

    sentence: str


def run(job: Job, address: str = EMBEDDED) -> Iterator[Summary]:
    """Score the chunks of a job that have no part yet; yield their summaries in the order in which they end.

    Raise DataError where the cluster cannot be reached, a node does not see the paths of the job or cannot answer, or
    no chunk moves any more.
    """
    with connected(address):
        try:
            yield from summaries(plan(absolute(job)))
        except ray.data.exceptions.ExecutionTimeoutError:
            raise DataError(silence()) from None
        except ray.exceptions.RayError as error:
            raise DataError(f"Ray: {first_sentence(error)}; start the same command again, finished parts stay") from error


def plan(job: Job) -> "ray.data.Dataset":
    """Return files → chunks → what came of them. Nothing runs before it is iterated.

    With blocks of one row, each actor takes the next chunk as soon as it is free. Readers ask for no CPU, so that
    actors may have them all and neither waits for the other, even with one CPU.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = MAX_SILENCE
    files = ray.data.from_items([str(file) for file in job.files], override_num_blocks=len(job.files))
    shared = {"job": job, "digests": digests(job)}
    work = files.flat_map(read, fn_kwargs=shared, num_cpus=0, compute=readers(job))
    return work.map_batches(
        Actor, fn_constructor_kwargs=shared, batch_size=1, batch_format="pyarrow", **processors(job)
    )


def readers(job: Job) -> "ray.data.TaskPoolStrategy":
    """How many files are read at once."""
    return ray.data.TaskPoolStrategy(min(len(job.files), 1 + resource("CPU") // CPUS_PER_READER))


def processors(job: Job) -> dict[str, Any]:
    """What each actor asks for, and how many there are at first: as many as the cluster has room for, then and later."""
    gpus = job.provider == "cuda"
    first = max(1, resource("GPU" if gpus else "CPU"))
    pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=first)
    return {"num_cpus": 1, "num_gpus": 1 if gpus else None, "compute": pool}


def read(row: Mapping[str, str], job: Job, digests: Digests) -> Iterator[dict[str, bytes]]:
    """Yield the chunks of a file that have no part yet, and last a Failure where the rest cannot be read."""
    try:
        check(digests)
        for chunk in missing(job, Path(row["item"])):
            yield {"work": pickle.dumps(chunk)}
    except (BertheadsError, OSError) as error:
        yield {"work": pickle.dumps(failure(error))}


class Actor:
    """Holds a bundle and answers chunks, one at a time."""

    def __init__(self, job: Job, digests: Digests) -> None:
        self._job, self._digests = job, digests

    @cached_property
    def scorer(self) -> Scorer:
        """Opened for the first chunk: of an error in a constructor, Ray keeps only the text of its stack trace."""
        check(self._digests)
        return Scorer(self._job)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        outcomes = [pickle.dumps(self.outcome(pickle.loads(work.as_py()))) for work in batch["work"]]
        return pyarrow.table({"outcome": pyarrow.array(outcomes, pyarrow.binary())})

    def outcome(self, work: Chunk | Failure) -> Summary | Failure:
        if isinstance(work, Failure):
            return work
        try:
            return self.scorer(work)
        except (BertheadsError, OSError, MemoryError) as error:
            return failure(error)


def summaries(plan: "ray.data.Dataset") -> Iterator[Summary]:
    """Yield what comes back from the actors; raise the first failure as DataError."""
    for row in plan.iter_rows():
        outcome: Summary | Failure = pickle.loads(row["outcome"])
        if isinstance(outcome, Failure):
            raise DataError(outcome.sentence)
        yield outcome


def absolute(job: Job) -> Job:
    """Return the job with paths that do not depend on the working directory, which workers do not share."""
    files = tuple(file.absolute() for file in job.files)
    return replace(job, files=files, bundle=job.bundle.absolute(), out=job.out.absolute())


def digests(job: Job) -> Digests:
    """The hashes of two files that every node must see: the bundle's, which has those of all others, and this run's."""
    return {path: hash_of(path) for path in (job.bundle / "bundle.json", job.out / "_score.json")}


def check(digests: Digests) -> None:
    """Raise DataError where this node has not what the driver has."""
    for path, digest in digests.items():
        if not path.exists():
            raise DataError(f"{path} is not there, expected the same folder on all nodes; mount {path.parent} on each")
        if hash_of(path) != digest:
            raise DataError(f"{path} differs from that of the driver, expected one folder; mount {path.parent} on each")


def failure(error: Exception) -> Failure:
    """Return an error of this process, with the name of its node."""
    return Failure(f"node {socket.gethostname()}: {error or type(error).__name__}")


def silence() -> str:
    have = f"a cluster with {resource('CPU')} CPUs and {resource('GPU')} GPUs"
    need = "each actor needs one CPU, with --provider cuda a GPU too, and memory for the bundle"
    return f"no chunk for {MAX_SILENCE} s on {have}; {need}: see `ray status`, and start the same command again"
