"""Files in which workers keep their metrics, in a directory in memory that their supervisor owns.

Each process writes files of its own, one per kind; a scrape of any worker adds up all files. What dead workers counted
is folded into one file per kind, so that nothing is lost and the directory does not grow with restarts.
"""

import fcntl
import logging
import multiprocessing
import os
import shutil
import struct
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import prometheus_client.values
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.errors import SettingsError

logger = logging.getLogger(__name__)

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory to prometheus_client, before it makes its first metric."""
MEMORY = Path("/dev/shm")
PREFIX = "bertheads-workers-"
NEW = "bertheads-new-"
"""Of a directory that nobody holds yet."""
LOCK = "lock"
DEAD = "dead"
"""Stands for the process in the name of a file with the counts of dead ones: counter_dead.db beside counter_123.db."""
INITIAL_BYTES = 1 << 18
"""Of a file: enough for the series of some ten heads."""
MAX_LOCK_SECONDS = 5.0
ALL = "*.db"
GAUGES = "gauge_livesum_*.db"
"""Files with what is summed over living workers."""
RESTARTS = ("bertheads_worker_restarts", "Workers that ended and were replaced")


class Allocated(MmapedDict):
    """Allocates a file before it is mapped: where the file system is full, a write to the map would end the process."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        if not read_mode:
            try:
                _allocate(filename, INITIAL_BYTES)
            except OSError as error:
                raise SettingsError(
                    f"cannot allocate {filename} for metrics ({error.strerror}); free memory in "
                    f"{Path(filename).parents[1]}, make it larger (docker run --shm-size), or start with --workers 1"
                ) from None
        super().__init__(filename, read_mode)  # type: ignore[no-untyped-call]
        self._full = False

    def _init_value(self, key: str) -> None:
        """Add a series; without room for it, let it and all later ones share a place that nobody reads."""
        size, need = self._capacity, self._used + len(key.encode()) + 64
        while need > size:
            size *= 2
        if size > self._capacity and not self._full:
            try:
                _allocate(self._fname, size)
            except OSError as error:
                self._full = True
                logger.error("new series are not counted: %s cannot grow (%s)", self._fname, error.strerror)
        if self._full:
            self._positions[key] = self._capacity - 16
        else:
            super()._init_value(key)  # type: ignore[no-untyped-call]


prometheus_client.values.MmapedDict = Allocated  # type: ignore[attr-defined]  # there is no other way in


class Files(Collector):
    """Adds up what the workers wrote to files of a pattern."""

    def __init__(self, directory: Path, pattern: str) -> None:
        self.directory = directory
        self.pattern = pattern

    def collect(self) -> Iterable[Metric]:
        with _locked(self.directory, fcntl.LOCK_SH):
            files = list(self.directory.glob(self.pattern))
            try:
                return _merge(files)
            except Exception:
                return _merge(_sound(files))


class Processes(Collector):
    """Memory, processor time and file descriptors of each worker, and of their supervisor; the label is the process.

    The supervisor is the oldest of them: the least start time is that of the whole service.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def collect(self) -> Iterable[Metric]:
        merged: dict[str, Metric] = {}
        for pid in [*map(_process, self.directory.glob(GAUGES)), *_supervisor()]:
            for metric in ProcessCollector(pid=partial(str, pid), registry=None).collect():
                whole = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                whole.samples += [sample._replace(labels={"pid": pid}) for sample in metric.samples]
        return merged.values()


class Space(Collector):
    """The room that is left for metrics: where it ends, new series are not counted."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def collect(self) -> Iterable[Metric]:
        with suppress(OSError):
            free = shutil.disk_usage(self.directory).free
            yield GaugeMetricFamily("bertheads_metric_files_free_bytes", "Room for more metrics of workers", free)


def _supervisor() -> list[str]:
    parent = multiprocessing.parent_process()
    return [str(parent.pid)] if parent else []


def collected(directory: Path, pattern: str = ALL) -> CollectorRegistry:
    """Return a registry that adds up what living and dead workers wrote; with all files, their processes too."""
    registry = CollectorRegistry()
    registry.register(Files(directory, pattern))
    if pattern == ALL:
        registry.register(Processes(directory))
        registry.register(Space(directory))
    return registry


@contextmanager
def metric_directory() -> Iterator[Path]:
    """Make a directory for metrics while the block runs; remove those of supervisors that were killed.

    Raises SettingsError if there is no place for one.
    """
    try:
        root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        remove_stale(root)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=root))
        held = hold(new)  # before it has the name by which others find it
        directory = new.rename(root / new.name.replace(NEW, PREFIX))
    except OSError as error:
        raise SettingsError(
            f"cannot make a directory for metrics ({error}); make {MEMORY} writable, or start with --workers 1"
        ) from None
    os.environ[VARIABLE] = str(directory)
    try:
        yield directory
    finally:
        os.environ.pop(VARIABLE, None)
        shutil.rmtree(directory, ignore_errors=True)
        os.close(held)


def hold(directory: Path) -> int:
    """Keep others from removing a directory until this process ends or closes the descriptor that is returned."""
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def remove_stale(root: Path) -> None:
    """Remove directories that no process holds: the kernel frees what a killed one held."""
    for directory in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is held, or another user's
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
                logger.info("removed %s, which a killed service left behind", directory)
            finally:
                os.close(descriptor)


def fold(directory: Path, living: Iterable[int], restarts: int = 0) -> None:
    """Move the counts of processes that do not live any more into one file per kind, and count restarts there."""
    alive = {str(pid) for pid in living}
    try:
        with _locked(directory, fcntl.LOCK_EX):
            for kind in ("counter", "histogram"):
                _fold_kind(directory, kind, alive, restarts)
            for gauge in _dead(directory, "gauge", alive):
                gauge.unlink()
    except OSError as error:
        logger.warning("metrics of dead workers stay in files of their own for now: %s", error)


def _fold_kind(directory: Path, kind: str, alive: set[str], restarts: int) -> None:
    files = _dead(directory, kind, alive)
    counts: defaultdict[str, float] = defaultdict(float)
    for file in _sound(files):
        for key, value, *_ in MmapedDict.read_all_values_from_file(file):  # type: ignore[no-untyped-call]
            counts[key] += value
    if kind == "counter":
        name, documentation = RESTARTS
        counts[mmap_key(name, f"{name}_total", [], [], documentation)] += restarts
    whole = directory / f"{kind}_{DEAD}.db"
    _write(whole, counts)
    for file in files:
        if file != whole:
            file.unlink()


def _dead(directory: Path, kind: str, alive: set[str]) -> list[Path]:
    return [file for file in directory.glob(f"{kind}_*.db") if _process(file) not in alive]


def _process(file: Path) -> str:
    return file.stem.rpartition("_")[2]


def _write(file: Path, counts: Mapping[str, float]) -> None:
    """Replace a file in the format of MmapedDict."""
    entries = bytearray()
    for key, value in counts.items():
        encoded = key.encode()
        padded = encoded + b" " * (8 - (len(encoded) + 4) % 8)
        entries += struct.pack(f"i{len(padded)}sdd", len(encoded), padded, value, 0.0)
    new = file.with_suffix(".new")
    try:
        new.write_bytes(struct.pack("ii", 8 + len(entries), 0) + entries)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)


def _merge(files: Iterable[Path]) -> Iterable[Metric]:
    merged: Iterable[Metric] = MultiProcessCollector.merge(list(map(str, files)))  # type: ignore[no-untyped-call]
    return merged


def _sound(files: Iterable[Path]) -> list[Path]:
    """Leave out files that cannot be read; log each once."""
    return [file for file in files if _is_sound(file)]


def _is_sound(file: Path) -> bool:
    try:
        if file.stat().st_size:  # otherwise its process has just made it
            _merge([file])
            return True
    except Exception as error:
        if file not in _told:
            _told.add(file)
            logger.warning("the metrics in %s are left out, since it is broken: %s", file, error)
    return False


_told: set[Path] = set()


@contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    """Hold the lock of a directory: scrapes share it, folding has it alone. Raises TimeoutError if it is not free."""
    descriptor = os.open(directory / LOCK, os.O_RDONLY | os.O_CREAT, 0o600)
    try:
        _lock(descriptor, operation, time.monotonic() + MAX_LOCK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, operation: int, end: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError("another process holds the lock of the metrics") from None
            time.sleep(0.005)


def _allocate(file: str, size: int) -> None:
    with open(file, "ab") as end:
        end.write(bytes(max(0, size - end.tell())))
