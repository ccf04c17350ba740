"""The cores and the memory that this process may use, according to its CPU affinity and its control groups.

All groups above a group limit it too, so the smallest limit on the way to the root counts. Without this, a container
that may use two of 64 cores would start 64 threads, which would mostly wait for each other.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Lines "0::/group" (cgroup v2) and "4:cpu:/group" (v1, one hierarchy per controller)."""


def usable_cores(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the number of usable cores, rounded, at least 1."""
    return max(1, min([len(affinity()), *map(round, _quotas(root, membership))]))


def memory_limit(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the memory limit of this process's groups in bytes; without a limit, the memory of the machine."""
    files = ("memory.max", "memory.limit_in_bytes")  # v2 and v1; no limit is "max" in v2, and a huge number in v1
    groups = _groups(root, membership, "memory")
    limits = [int(text) for group in groups for file in files for text in _texts(group, file) if text.isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def affinity() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    with suppress(AttributeError):  # macOS has no CPU affinity
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """Yield the limit of each group in CPU seconds per second, if it has one (v2: "MAX PERIOD"; v1: two files).

    "max" (v2) and -1 (v1) mean no limit.
    """
    for group in _groups(root, membership, "cpu"):
        for text in _texts(group, "cpu.max"):
            limit, period = text.split()
            if limit != "max":
                yield int(limit) / int(period)
        for limit, period in zip(_texts(group, "cpu.cfs_quota_us"), _texts(group, "cpu.cfs_period_us"), strict=False):
            if int(limit) > 0:
                yield int(limit) / int(period)


def _groups(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield the directories of this process's groups and of all groups above them (v2, and the controller's v1).

    In a container, the path in /proc may not exist, because the container's group is mounted as the root.
    """
    paths = {"": PurePosixPath("/"), controller: PurePosixPath("/")}
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, group = line.split(":", 2)
        paths |= {name: PurePosixPath(group) for name in controllers.split(",") if name in paths}
    for name, path in paths.items():
        inside = path if ".." not in path.parts else PurePosixPath("/")  # the group is outside the mounted hierarchy
        yield from (root / name / each.relative_to("/") for each in (inside, *inside.parents))


def _texts(group: Path, file: str) -> Iterator[str]:
    with suppress(OSError):
        yield (group / file).read_text().strip()
