"""If this breaks, counts of dead workers get lost or count twice, or a full or littered /dev/shm ends the service."""

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.mmap_dict import mmap_key

from service import metric_files
from service.errors import SettingsError
from service.metric_files import NEW, PREFIX, VARIABLE, Allocated, collected, fold, metric_directory, remove_stale
from service.metrics import ready_workers
from tests.programs import program
from tests.service.test_metrics import families

ALIVE, DEAD, LATER = 11, 12, 13


def write(directory: Path, kind: str, pid: int, values: dict[str, float], suffix: str = "_total") -> None:
    entries = {(f"bertheads_{name}", f"bertheads_{name}{suffix}", "a", "é"): value for name, value in values.items()}
    write_entries(directory / f"{kind}_{pid}.db", entries)


def write_entries(path: Path, entries: dict[tuple[str, str, str, str], float]) -> None:
    """Write a file as a worker does: metric, name, label and its value, if any, by number."""
    file: Any = Allocated(str(path))
    for (metric, name, label, value), number in entries.items():
        labels = ([label], [value]) if label else ([], [])
        file.write_value(mmap_key(metric, name, *labels, "Help"), number, 0.0)
    file.close()


def page(registry: CollectorRegistry) -> str:
    return choose_encoder("application/openmetrics-text")[0](registry).decode()


def value(directory: Path, name: str, **labels: str) -> float | None:
    return collected(directory).get_sample_value(f"bertheads_{name}", labels)


def histogram(directory: Path, pid: int, below: float, seconds: float) -> None:
    bucket = ("bertheads_s", "bertheads_s_bucket", "le")
    entries = {(*bucket, "1.0"): below, (*bucket, "+Inf"): 1.0, ("bertheads_s", "bertheads_s_sum", "", ""): seconds}
    write_entries(directory / f"histogram_{pid}.db", entries)


def test_dead_workers_are_folded_once_into_one_file_per_kind(tmp_path: Path) -> None:
    for pid in (ALIVE, DEAD, LATER):
        write(tmp_path, "counter", pid, {"b": pid, f"only_{pid}": 1})
        write(tmp_path, "gauge_livesum", pid, {"ready": 1}, suffix="")
        histogram(tmp_path, pid, pid - ALIVE, 1.5)
    before = page(collected(tmp_path, "[ch]*.db"))
    for living in ([ALIVE, LATER], [ALIVE, LATER], [ALIVE], [ALIVE]):
        fold(tmp_path, living)
    after = page(collected(tmp_path, "[ch]*.db"))
    assert sorted(line for line in after.splitlines() if "restarts" not in line) == sorted(before.splitlines())
    assert len(families(after)) == 6
    assert value(tmp_path, "b_total", a="é") == ALIVE + DEAD + LATER
    assert value(tmp_path, "s_bucket", le="1.0") == 3 and value(tmp_path, "s_sum") == 4.5
    assert value(tmp_path, "ready", a="é") == 1
    assert {file.name for file in tmp_path.iterdir()} == {
        *(f"{kind}_{ALIVE}.db" for kind in ("counter", "histogram", "gauge_livesum")),
        *("counter_dead.db", "histogram_dead.db", "lock"),
    }


def test_each_living_process_has_its_own_figures(tmp_path: Path) -> None:
    write(tmp_path, "gauge_livesum", os.getpid(), {"ready": 1}, suffix="")
    write(tmp_path, "gauge_livesum", 1 << 30, {"ready": 1}, suffix="")  # ended a moment ago
    registry = collected(tmp_path)
    assert (registry.get_sample_value("process_resident_memory_bytes", {"pid": str(os.getpid())}) or 0) > 1 << 20
    assert registry.get_sample_value("process_resident_memory_bytes", {"pid": str(1 << 30)}) is None
    assert {"process_cpu_seconds", "process_open_fds"} <= families(page(registry))


def test_the_supervisor_is_one_of_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiprocessing.parent_process", lambda: SimpleNamespace(pid=os.getppid()))
    write(tmp_path, "gauge_livesum", os.getpid(), {"ready": 1}, suffix="")
    registry = collected(tmp_path)
    own, above = (
        registry.get_sample_value("process_start_time_seconds", {"pid": str(pid)}) or 0
        for pid in (os.getpid(), os.getppid())
    )
    assert 0 < above <= own


def test_the_room_for_metrics_is_known(tmp_path: Path) -> None:
    free = collected(tmp_path).get_sample_value("bertheads_metric_files_free_bytes")
    assert free is not None and 0 < free <= shutil.disk_usage(tmp_path).total
    gone = collected(tmp_path, "none*.db")  # what supervisors ask for twice per second has only what it needs
    assert gone.get_sample_value("bertheads_metric_files_free_bytes") is None


def test_restarts_are_counted_by_folding(tmp_path: Path) -> None:
    for _ in range(3):
        fold(tmp_path, [], restarts=1)
    assert value(tmp_path, "worker_restarts_total") == 3


@pytest.mark.parametrize(
    "damage",
    [b"", b"\x7f" * 100, (1 << 30).to_bytes(4, "little") + bytes(10), b"\x40\0\0\0" * 9],
    ids=["empty", "noise", "short", "no key"],
)
def test_a_broken_file_is_left_out_with_one_line(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "counter", ALIVE, {"b": 5})
    broken = tmp_path / f"counter_{DEAD}.db"
    broken.write_bytes(damage)
    for _ in range(2):
        assert value(tmp_path, "b_total", a="é") == 5
    fold(tmp_path, [ALIVE])
    assert value(tmp_path, "b_total", a="é") == 5 and not broken.exists()
    assert [broken.name in line for line in caplog.messages] == ([True] if damage else [])


def test_a_file_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "counter", ALIVE, {"b": 5})
    write(tmp_path, "counter", DEAD, {f"c{number}": 1 for number in range(100)})
    os.truncate(tmp_path / f"counter_{DEAD}.db", 700)
    assert value(tmp_path, "b_total", a="é") == 5


def test_while_a_scrape_reads_nothing_is_folded_and_later_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metric_files, "MAX_LOCK_SECONDS", 0.1)
    write(tmp_path, "counter", DEAD, {"b": 5})
    with metric_files._locked(tmp_path, fcntl.LOCK_SH):
        fold(tmp_path, [])
        assert (tmp_path / f"counter_{DEAD}.db").exists() and "so their files are kept for now" in caplog.text
    fold(tmp_path, [])
    assert not (tmp_path / f"counter_{DEAD}.db").exists() and value(tmp_path, "b_total", a="é") == 5


def test_what_cannot_be_read_counts_no_worker_as_ready(tmp_path: Path) -> None:
    write(tmp_path, "gauge_livesum", ALIVE, {"b": 1}, suffix="")
    assert ready_workers(collected(tmp_path)) == 0
    assert ready_workers(collected(tmp_path / "gone")) == 0


def test_directories_of_killed_supervisors_go_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_files, "MEMORY", tmp_path)
    killed = tmp_path / f"{PREFIX}killed"
    killed.mkdir()
    (killed / "counter_1.db").write_bytes(b"a")
    for name in ("else", f"{NEW}starting"):
        (tmp_path / name).mkdir()
    with metric_directory() as first:
        assert not killed.exists() and os.environ[VARIABLE] == str(first)
        with metric_directory() as second:
            assert first.exists() and second.exists() and first != second
        remove_stale(tmp_path)
        assert first.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"else", f"{NEW}starting"}


def test_workers_that_outlive_their_supervisor_keep_its_directory(tmp_path: Path) -> None:
    directory = tmp_path / f"{PREFIX}a"
    directory.mkdir()
    code = f"from service.metric_files import *; hold(Path({str(directory)!r})); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout and worker.stdout.readline() == "\n"
        remove_stale(tmp_path)
        assert directory.exists()
        worker.kill()
        worker.wait()
        remove_stale(tmp_path)
        assert not directory.exists()


def test_no_place_for_a_directory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_files, "MEMORY", tmp_path)
    monkeypatch.setattr("tempfile.mkdtemp", lambda **_: shutil.copy(tmp_path / "none", tmp_path))
    with pytest.raises(SettingsError, match="cannot make a directory for metrics"), metric_directory():
        pass


FULL = """
import logging, os, sys
from pathlib import Path
from service.errors import SettingsError
from service import metric_files
from service.metric_files import *

logging.basicConfig(stream=sys.stdout, format="%(message)s")
root = Path(sys.argv[1])
grown = Allocated(str(root / "counter_1.db"))
filler = (root / "filler").open("wb", buffering=0)
try:
    while True:
        filler.write(bytes(4096))
except OSError:
    pass
for number in range(5000):
    key = mmap_key("b", f"b{number}_total", [], [], "Help")
    grown.write_value(key, 1.0, 0.0)
    assert number < 1000 or grown.read_value(key)[0] == 1.0
values = {sample.name: sample.value for metric in collected(root).collect() for sample in metric.samples}
assert all(values[f"b{number}_total"] == 1.0 for number in range(1000)), values
assert 1000 < len(values) < 5000
fold(root, [])
assert (root / "counter_1.db").exists()
try:
    Allocated(str(root / "counter_2.db"))
except SettingsError as error:
    print(error)
"""


def test_a_full_file_system_ends_nothing_by_a_signal(tmp_path: Path) -> None:
    unshare = program("unshare", package="util-linux")
    mount = f'mount -t tmpfs -o size=1M none {tmp_path} && exec "$0" "$@"'
    command = [unshare, "-rm", "sh", "-c", mount, sys.executable, "-c", FULL, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip("this machine lets nobody mount a file system of their own")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "new series are not counted" in lines[0] and "No space left" in lines[0]
    assert "so their files are kept for now" in lines[1]
    assert "cannot allocate" in lines[2] and "--shm-size" in lines[2] and len(lines) == 3
