"""Scoring with Ray Data: embedded, on the cores of this machine, or the same on a cluster.

A reader turns one file into chunks. An actor, which holds the bundle, answers one chunk per call and writes its part;
only the summary comes back. So the parts are the checkpoint: a call that Ray repeats replaces its own part, and runs
with and without Ray continue each other. Ray Data's own checkpoint would hold all ids in memory, and filter rows in one
more actor. On two CPUs, that actor and ours would leave none for the reader, and a resumed run would hang.
"""

import os
import pickle
import socket
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow

from models.errors import BertheadsError
from training.errors import DataError, TrainingError
from training.run.atomic_files import hash_of
from training.scoring.chunks import Chunk, chunks
from training.scoring.job import Job
from training.scoring.ray_cluster import connected, first_sentence, ray, resource
from training.scoring.scorer import Scorer, Summary, refuse_unreadable, written

MAX_SILENCE = 900
"""Seconds without a read or answered chunk after which a run ends. An autoscaler takes minutes to add a node."""
MAX_READS = 1000
"""Maximum tasks of readers; with more files, each reads several."""
CPUS_PER_READER = 8
"""Share of the cluster for readers, which are much faster than actors."""

Digests = Mapping[Path, str]


class Failure(NamedTuple):
    """An error of a node, as a value: Ray would wrap an exception in its own stack traces."""

    sentence: str
    ends: bool
    """Whether the run ends at once; an unreadable file is reported after the others."""


Work = Chunk | Summary | Failure
"""The output of readers: chunks to answer, parts that already exist, and errors."""


def run(job: Job, address: str | None = None) -> Iterator[Summary]:
    """Write the missing parts, and yield a summary of each chunk, in any order.

    Without an address, Ray is embedded. Raise DataError at the end for files that could not be read to their ends.
    Raise TrainingError at once if the cluster cannot be reached, if a node lacks the paths of the job or cannot answer,
    or if no chunk makes progress.
    """
    with connected(address):
        try:
            yield from summaries(plan(absolute(job)))
        except ray.data.exceptions.ExecutionTimeoutError:
            raise TrainingError(silence()) from None
        except ray.exceptions.RayError as error:
            raise TrainingError(f"Ray: {first_sentence(error)}; run the same command again, which continues") from error


def plan(job: Job) -> "ray.data.Dataset":
    """Return the pipeline files → chunks → summaries. Nothing runs before it is iterated.

    With blocks of one row, each actor takes the next chunk as soon as it is free. Readers request no CPU, so actors may
    use all of them, and neither waits for the other, even with one CPU.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1
    context.execution_no_progress_timeout_s = MAX_SILENCE
    files = [{"file": str(file), "size": file.stat().st_size} for file in job.files]
    rows = ray.data.from_items(files, override_num_blocks=min(len(files), MAX_READS))
    seen = digests(job)
    reading = {"job": job, "digests": seen, "done": written(job)}
    work = rows.flat_map(
        read,  # type: ignore[arg-type]  # Ray's types do not know of fn_kwargs
        fn_kwargs=reading,
        num_cpus=0,
        compute=readers(job),
    )
    answering = {"job": job, "digests": seen}
    return work.map_batches(
        Actor, fn_constructor_kwargs=answering, batch_size=1, batch_format="pyarrow", **processors(job)
    )


def readers(job: Job) -> "ray.data.TaskPoolStrategy":
    """Return how many files are read at once."""
    return ray.data.TaskPoolStrategy(min(len(job.files), 1 + resource("CPU") // CPUS_PER_READER))


def processors(job: Job) -> dict[str, Any]:
    """Return the resources per actor. At first there are as many as the cluster has room for; more nodes add more."""
    gpus = job.provider == "cuda"
    first = max(1, resource("GPU" if gpus else "CPU"))
    pool = ray.data.ActorPoolStrategy(min_size=1, initial_size=first)
    return {"num_cpus": 1, "num_gpus": 1 if gpus else None, "compute": pool}


def read(row: Mapping[str, Any], job: Job, digests: Digests, done: AbstractSet[str]) -> Iterator[dict[str, bytes]]:
    """Yield the pickled chunks of a file, a summary for each finished one, and a failure for an unreadable end.

    Ray may read a file again and skip the rows that it has, so `done` is the state at the start of the run.
    """
    return ({"work": pickle.dumps(work)} for work in work_of(row, job, digests, done))


def work_of(row: Mapping[str, Any], job: Job, digests: Digests, done: AbstractSet[str]) -> Iterator[Work]:
    file = Path(row["file"])
    try:
        check(digests)
        check_size(file, row["size"])
        for chunk in chunks(job, file):
            yield Summary(chunk.part, 0, 0, 0, chunk.size) if chunk.part in done else chunk
    except Exception as error:
        yield failure(error, ends=not isinstance(error, DataError))


class Actor:
    """Holds a bundle and answers chunks, one at a time."""

    def __init__(self, job: Job, digests: Digests) -> None:
        self._job, self._digests = job, digests

    @cached_property
    def scorer(self) -> Scorer:
        """The bundle, opened for the first chunk: Ray reduces an error in a constructor to its stack trace."""
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the actors are the parallelism
        check(self._digests)
        return Scorer(self._job)

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        outcomes = [pickle.dumps(self.outcome(pickle.loads(work.as_py()))) for work in batch["work"]]
        return pyarrow.table({"outcome": pyarrow.array(outcomes, pyarrow.binary())})

    def outcome(self, work: Work) -> Summary | Failure:
        if not isinstance(work, Chunk):
            return work
        try:
            return self.scorer(work)
        except Exception as error:
            return failure(error)


def summaries(plan: "ray.data.Dataset") -> Iterator[Summary]:
    """Yield the summaries of actors; raise the first failure that ends the run, and the others at its end."""
    unreadable: list[str] = []
    for row in plan.iter_rows():
        outcome: Summary | Failure = pickle.loads(row["outcome"])
        if isinstance(outcome, Summary):
            yield outcome
        elif outcome.ends:
            raise TrainingError(outcome.sentence)
        else:
            unreadable.append(outcome.sentence)
    refuse_unreadable(unreadable)


def absolute(job: Job) -> Job:
    """Return the job with absolute paths, because workers have another working directory."""
    files = tuple(file.absolute() for file in job.files)
    return replace(job, files=files, bundle=job.bundle.absolute(), out=job.out.absolute())


def digests(job: Job) -> Digests:
    """Return the hashes of two files that every node must see: that of the bundle, and that of this run."""
    return {path: hash_of(path) for path in (job.bundle / "bundle.json", job.out / "_score.json")}


def check(digests: Digests) -> None:
    """Raise TrainingError if this node does not have the files of the driver."""
    for path, digest in digests.items():
        if not path.exists():
            raise TrainingError(absent(path))
        if hash_of(path) != digest:
            raise TrainingError(f"{path} is not the driver's, expected one folder; mount {path.parent} on all nodes")


def check_size(file: Path, size: int) -> None:
    """Raise TrainingError if this node does not have this file of the driver."""
    if not file.exists():
        raise TrainingError(absent(file))
    if (found := file.stat().st_size) != size:
        raise TrainingError(
            f"{file} has {found:,} bytes, expected the driver's {size:,}; mount one folder on all nodes"
        )


def absent(path: Path) -> str:
    return f"{path} does not exist, expected it as on the driver; mount {path.parent} on all nodes"


def failure(error: Exception, ends: bool = True) -> Failure:
    """Return an error of this process, with the name of its node if the node may be the cause."""
    expected = isinstance(error, (BertheadsError, OSError))
    sentence = str(error) if expected else f"{type(error).__name__} {error}".rstrip()
    return Failure(f"node {socket.gethostname()}: {sentence}" if ends else sentence, ends)


def silence() -> str:
    return (
        f"no chunk was read or answered for {MAX_SILENCE} s on a cluster with {resource('CPU')} CPUs and "
        f"{resource('GPU')} GPUs: others use them, or actors keep dying for lack of memory; "
        "see `ray status`, and run the same command again, which continues"
    )
