"""If these fail, a run with Ray gives other answers than one without, loses or doubles rows, hangs, or stays alive.

Tests that start Ray are slow.
"""

import gzip
import json
import os
import pickle
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet
import pytest

from models.bundle import read_bundle
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from tests.service.serving import until
from tests.training.scoring.ray_runs import COMMAND, ENVIRONMENT, session, started
from training.errors import DataError, TrainingError
from training.scoring import local, ray_cluster, ray_data
from training.scoring.chunks import chunks
from training.scoring.folder import claimed
from training.scoring.job import Job
from training.scoring.ray_cluster import connect, connected, ray
from training.scoring.ray_data import Actor, Failure, check, check_size, digests, run, work_of
from training.scoring.scorer import Summary, every_chunk, written

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:ray")  # of itself, where it makes its settings
ROWS = 12_000
"""In two files: some twenty chunks."""
WORDS = "the cat sat on a mat and saw no dog".split()


def write_rows(file: Path, first: int, last: int) -> Path:
    rows = ({"id": n, "text": " ".join(WORDS[: 1 + n % len(WORDS)] * 4)} for n in range(first, last))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Job:
    """A job whose answers of a run without Ray are in its folder."""
    folder = tmp_path_factory.mktemp("ray")
    files = (write_rows(folder / "a.jsonl", 0, ROWS // 2), write_rows(folder / "b.jsonl", ROWS // 2, ROWS))
    bundle = write_bundle(folder / "bundle", tokenizer)
    job = Job(files, bundle, "sentiment", "classify", folder / "local")
    score(job, lambda job: local.run(job, 1))
    return job


@pytest.fixture(scope="module")
def two_cpus() -> Iterator[None]:
    """An embedded Ray with two CPUs, which the tests share; to other processes it is a cluster."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ray_cluster, "usable_cores", lambda: 2)
        patched.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
        with connected(None):
            yield


def score(job: Job, runner: Callable[[Job], Iterator[Summary]] = run) -> list[Summary]:
    with claimed(job, read_bundle(job.bundle)):
        return list(runner(job))


def parts(job: Job) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(job.out.glob("part-*"))}


def elsewhere(job: Job, out: Path, copied: bool = False) -> Job:
    """Return the job with another folder, empty or with the answers of the first one."""
    if copied:
        shutil.copytree(job.out, out)
    return replace(job, out=out)


# ---- the answers -----------------------------------------------------------------------------------------------------


LOST = {"part-00000-000003", "part-00001-000000"}


def begun(job: Job, out: Path) -> Job:
    """Return the job with a folder in which LOST are still missing."""
    copy = elsewhere(job, out, copied=True)
    for part in LOST:
        (copy.out / f"{part}.parquet").unlink()
    return copy


def test_readers_and_actors_continue_a_run(job: Job, tmp_path: Path) -> None:
    """What Ray calls, without Ray: only missing parts are written, with the same bytes."""
    again = begun(job, tmp_path / "begun")
    seen, done = digests(again), written(again)
    rows = [{"file": str(file), "size": file.stat().st_size} for file in again.files]
    actor = Actor(again, seen)
    found = [actor.outcome(work) for row in rows for work in work_of(row, again, seen, done)]
    assert {one.part for one in found if isinstance(one, Summary) and one.rows} == LOST
    assert parts(again) == parts(job)


@pytest.mark.slow
def test_a_run_is_continued(job: Job, two_cpus: None, tmp_path: Path) -> None:
    """A run with Ray continues where one without it ended, and writes the same parts, byte for byte."""
    left = begun(job, tmp_path / "begun")
    kept = {file.name: file.stat().st_mtime_ns for file in left.out.glob("part-*")}
    again = score(left)
    assert {summary.part for summary in again if summary.rows} == LOST
    expected = [(chunk.part, chunk.size) for chunk in every_chunk(job)]
    assert sorted((summary.part, summary.size) for summary in again) == sorted(expected)
    assert parts(left) == parts(job)
    assert kept == {name: (left.out / name).stat().st_mtime_ns for name in kept}


@pytest.mark.slow
def test_a_fresh_run(job: Job, two_cpus: None, tmp_path: Path) -> None:
    fresh = elsewhere(job, tmp_path / "fresh")
    found = score(fresh)
    assert parts(fresh) == parts(job)
    assert sum(summary.rows for summary in found) == ROWS
    assert sum(summary.size for summary in found) == sum(file.stat().st_size for file in job.files)


@pytest.mark.slow
def test_an_actor_that_is_killed(job: Job, two_cpus: None, tmp_path: Path) -> None:
    """Ray starts another one, which answers the chunk again."""
    killed = elsewhere(job, tmp_path / "out")
    victims: list[int] = []

    def with_a_kill(job: Job) -> Iterator[Summary]:
        for summary in run(job):
            if not victims:
                victims.append(actors()[0])
                os.kill(victims[0], signal.SIGKILL)
            yield summary

    found = score(killed, with_a_kill)
    assert victims
    assert Counter(summary.part for summary in found).most_common(1)[0][1] == 1
    assert parts(killed) == parts(job)


def actors() -> list[int]:
    """Return the processes of our Ray that answer."""
    ours = [(number, Path(f"/proc/{number}/cmdline").read_bytes()) for number in descendants(os.getpid())]
    return [number for number, command in ours if command.startswith(b"ray::MapWorker(MapBatches(Actor))")]


def descendants(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        for number in map(int, (task / "children").read_text().split()):
            yield number
            yield from descendants(number)


@pytest.mark.slow
def test_a_file_that_cannot_be_read_ends_last(job: Job, two_cpus: None, tmp_path: Path) -> None:
    """What is before the damage and all other files are answered; then comes what a run without Ray says."""
    torn = tmp_path / "a.jsonl.gz"
    torn.write_bytes(gzip.compress(job.files[0].read_bytes())[:-4000])
    broken = replace(job, files=(torn, job.files[1]), out=tmp_path / "out")
    readable: list[str] = []
    with pytest.raises(DataError, match=r"a\.jsonl\.gz.*the rows before are answered") as expected:
        for chunk in every_chunk(broken):
            readable.append(chunk.part)
    with pytest.raises(DataError) as found:
        score(broken)
    assert str(found.value) == str(expected.value)
    assert list(parts(broken)) == [f"{part}.parquet" for part in readable]
    assert {part[:10] for part in readable} == {"part-00000", "part-00001"}


# ---- what may go wrong -----------------------------------------------------------------------------------------------


def test_a_node_without_the_bundle(job: Job, tmp_path: Path) -> None:
    """A node says which path it lacks; it answers nothing with another bundle than the driver's."""
    seen = digests(job)
    check(seen)
    (chunk, *_) = chunks(job, job.files[0])
    for gone in (job.bundle / "bundle.json", job.out / "_score.json"):
        for path, sentence in ((tmp_path / gone.name, "does not exist"), (gone, "is not the driver's")):
            found = Actor(job, {**seen, path: "0"}).outcome(chunk)
            assert isinstance(found, Failure) and found.ends
            assert found.sentence.startswith(f"node {os.uname().nodename}: {path} {sentence}")
            assert str(path.parent) in found.sentence.split("mount")[1]


def test_a_node_without_the_files(job: Job, tmp_path: Path) -> None:
    check_size(job.files[0], job.files[0].stat().st_size)
    for path, sentence in ((tmp_path / "a.jsonl", "does not exist"), (job.files[0], "bytes, expected the driver's 1;")):
        (found,) = work_of({"file": str(path), "size": 1}, job, digests(job), set())
        assert isinstance(found, Failure) and found.ends
        assert found.sentence.startswith(f"node {os.uname().nodename}: {path} ") and sentence in found.sentence


def test_failures_and_parts_pass_through_actors(job: Job) -> None:
    actor = Actor(job, {})
    done = Summary("part-00000-000000", 0, 0, 0, 9)
    for work in (Failure("no", ends=True), done):
        table = pyarrow.table({"work": [pickle.dumps(work)]})
        (outcome,) = actor(table)["outcome"].to_pylist()
        assert pickle.loads(outcome) == work
    assert "scorer" not in vars(actor)


@pytest.mark.slow
def test_an_error_of_an_actor_is_one_sentence(
    job: Job, two_cpus: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A bundle that is damaged after the run began: what the engine says, not a stack trace of Ray."""
    damaged = replace(job, bundle=shutil.copytree(job.bundle, tmp_path / "bundle"), out=tmp_path / "out")
    with pytest.raises(TrainingError) as error, claimed(damaged, read_bundle(damaged.bundle)):
        (damaged.bundle / "heads/sentiment.onnx").write_bytes(b"")
        list(run(damaged))
    assert str(error.value).startswith(f"node {os.uname().nodename}: {damaged.bundle}")
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_run_ends_if_no_chunk_makes_progress(
    job: Job, two_cpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another job has all CPUs: the error says how many there are."""
    monkeypatch.setattr(ray_data, "MAX_SILENCE", 2)

    @ray.remote(num_cpus=2)
    class Busy:
        def wait(self) -> None: ...

    busy = Busy.remote()  # type: ignore[attr-defined]
    ray.get(busy.wait.remote())
    with pytest.raises(TrainingError, match="no chunk .* for 2 s .* with 2 CPUs and 0 GPUs: .*run the same"):
        score(elsewhere(job, tmp_path / "out"))
    ray.kill(busy)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "refused"),
        ("ray://127.0.0.1:1", "driver inside the cluster"),
        ("nonsense", "nonsense"),
        ("no-host.invalid:6379", "not known"),
    ],
)
def test_no_cluster_there(address: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=f"^--ray {address}: .*{words}.*; expected auto or HOST:6379") as error:
        connect(address, str(tmp_path))
    assert "\n" not in str(error.value)


# ---- as a user has it ------------------------------------------------------------------------------------------------


def command(job: Job, *flags: str) -> list[str]:
    named = ["--bundle", str(job.bundle), "--head", job.head, "--out", str(job.out)]
    return [*COMMAND, *map(str, job.files), *named, *flags]


@pytest.mark.slow
def test_killed_five_times_on_a_cluster(job: Job, two_cpus: None, tmp_path: Path) -> None:
    """Kill -9 of the command, each time once it has written a part more: in the end every id is there once."""
    killed = elsewhere(job, tmp_path / "out")
    log = tmp_path / "log"
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.environ["RAY_AUTH_TOKEN"]}
    on_cluster = command(killed, "--ray", ray.get_runtime_context().gcs_address)
    for _ in range(5):
        before = len(parts(killed))
        with started(on_cluster, log, **access) as running:
            until(lambda before=before: len(parts(killed)) > before or running.poll() is not None)
            assert running.poll() is None, log.read_text()
    assert len(parts(killed)) < len(parts(job))
    with started(on_cluster, log, **access) as running:
        assert running.wait() == 0, log.read_text()
    assert parts(killed) == parts(job)
    ids = pyarrow.parquet.read_table(killed.out, columns=["id"])["id"].to_pylist()
    assert sorted(map(int, ids)) == list(range(ROWS))
    assert "ray" not in log.read_text().replace("_score.json", "").lower().split("see them with")[0]


@pytest.mark.slow
def test_an_embedded_ray_ends_with_its_run(job: Job, tmp_path: Path) -> None:
    """Interrupted, then to the end without Ray."""
    ended = elsewhere(job, tmp_path / "out")
    log = tmp_path / "log"
    with started(command(ended, "--ray"), log) as running:
        until(lambda: parts(ended) or running.poll() is not None)
        os.kill(running.pid, signal.SIGINT)
        assert running.wait() == 128 + signal.SIGINT, log.read_text()
        until(lambda: not session(running.pid))
    assert "and the same command continues" in log.read_text()
    with started(command(ended, "--processes", "1"), log) as running:
        assert running.wait() == 0, log.read_text()
    assert parts(ended) == parts(job)
