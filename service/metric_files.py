"""Files in which workers keep their metrics, in an in-memory directory that belongs to their supervisor.

Each process writes its own files, one per kind of metric; a scrape of any worker returns the sum of all files. The
counts of dead workers are merged into one file per kind, so nothing is lost and restarts do not add files.
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
"""Tells prometheus_client the directory; must be set before the first metric is created."""
MEMORY = Path("/dev/shm")
PREFIX = "bertheads-workers-"
NEW = "bertheads-new-"
"""Prefix of a directory that no process has locked yet."""
LOCK = "lock"
DEAD = "dead"
"""Takes the place of the process id in the name of the file for dead processes: counter_dead.db, counter_123.db."""
INITIAL_BYTES = 1 << 18
"""Initial size of a file: enough for the series of about ten heads."""
MAX_LOCK_SECONDS = 5.0
ALL = "*.db"
GAUGES = "gauge_livesum_*.db"
"""Files of the gauges that are summed over living workers."""
RESTARTS = ("bertheads_worker_restarts", "Workers that ended and were replaced")


class Allocated(MmapedDict):
    """Allocates a file before it is mapped: if the file system were full, a write to the map would kill the process."""

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
        """Add a series; if the file cannot grow, this and all later series share one slot that is never read."""
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


prometheus_client.values.MmapedDict = Allocated  # type: ignore[attr-defined]  # the only way to replace it


class Files(Collector):
    """Sums what the workers wrote to the files that match a pattern."""

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
    """Memory, CPU time and file descriptors of each worker and of the supervisor, with the process id as label.

    The supervisor is the oldest process, so the smallest start time is the start of the whole service.
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
    """The free space for metrics; without any, new series are not counted."""

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
    """Return a registry with the sums of all workers, living and dead; for pattern ALL, also process metrics."""
    registry = CollectorRegistry()
    registry.register(Files(directory, pattern))
    if pattern == ALL:
        registry.register(Processes(directory))
        registry.register(Space(directory))
    return registry


@contextmanager
def metric_directory() -> Iterator[Path]:
    """Create a directory for metrics while the block runs; remove directories of supervisors that were killed.

    Raises SettingsError if it cannot be created.
    """
    try:
        root = MEMORY if os.access(MEMORY, os.W_OK) else Path(tempfile.gettempdir())
        remove_stale(root)
        new = Path(tempfile.mkdtemp(prefix=NEW, dir=root))
        held = hold(new)  # before the rename, after which others may look for stale directories
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
    """Lock a directory against removal until this process ends or closes the returned descriptor."""
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def remove_stale(root: Path) -> None:
    """Remove directories that no process has locked; the kernel releases the locks of killed processes."""
    for directory in root.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is locked, or belongs to another user
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
                logger.info("removed %s, which a killed service left behind", directory)
            finally:
                os.close(descriptor)


def fold(directory: Path, living: Iterable[int], restarts: int = 0) -> None:
    """Merge the counts of dead processes into one file per kind, and add `restarts` to the counter there."""
    alive = {str(pid) for pid in living}
    try:
        with _locked(directory, fcntl.LOCK_EX):
            for kind in ("counter", "histogram"):
                _fold_kind(directory, kind, alive, restarts)
            for gauge in _dead(directory, "gauge", alive):
                gauge.unlink()
    except OSError as error:
        logger.warning("cannot merge the metrics of dead workers, so their files are kept for now: %s", error)


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
    """Return the files that can be read; log each of the others once."""
    return [file for file in files if _is_sound(file)]


def _is_sound(file: Path) -> bool:
    try:
        if file.stat().st_size:  # an empty file has just been created
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
    """Hold the lock of a directory, shared (LOCK_SH) for scrapes or exclusive (LOCK_EX) for merging.

    Raises TimeoutError if the lock is not free within MAX_LOCK_SECONDS.
    """
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
