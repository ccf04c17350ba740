"""The cores and the memory that this process may use, by its affinity and its control groups.

A group is limited by all groups above it, so the least limit on the way to the root holds. In a container that may use
two of 64 cores, 64 threads would wait for each other most of the time.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
"""Lines "0::/group" (cgroup v2) and "4:cpu:/group" (v1, one hierarchy per controller)."""


def usable_cores(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return at least 1; a fraction of a core counts as one."""
    return max(1, min([len(affinity()), *map(round, _quotas(root, membership))]))


def memory_limit(root: Path = CGROUP, membership: Path = MEMBERSHIP) -> int:
    """Return the bytes beyond which the kernel ends processes of this group; those of the machine without a limit."""
    files = ("memory.max", "memory.limit_in_bytes")  # v2, v1; without a limit "max", and more than any machine has
    groups = _groups(root, membership, "memory")
    limits = [int(text) for group in groups for file in files for text in _texts(group, file) if text.isdigit()]
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *limits])


def affinity() -> set[int]:
    """Return the numbers of the cores that this process may run on."""
    with suppress(AttributeError):  # macOS knows no affinity
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quotas(root: Path, membership: Path) -> Iterator[float]:
    """CPU-seconds per second of each group with a limit ("MAX PERIOD" or "max PERIOD"; v1: two files, or -1)."""
    for group in _groups(root, membership, "cpu"):
        for text in _texts(group, "cpu.max"):
            limit, period = text.split()
            if limit != "max":
                yield int(limit) / int(period)
        for limit, period in zip(_texts(group, "cpu.cfs_quota_us"), _texts(group, "cpu.cfs_period_us"), strict=False):
            if int(limit) > 0:
                yield int(limit) / int(period)


def _groups(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Directories of this process's groups and all above them, in v2 and in the controller's hierarchy of v1.

    A container may see its own group as the root, whatever path it is told: then only the root exists.
    """
    paths = {"": PurePosixPath("/"), controller: PurePosixPath("/")}
    for line in membership.read_text().splitlines() if membership.exists() else ():
        _, controllers, group = line.split(":", 2)
        paths |= {name: PurePosixPath(group) for name in controllers.split(",") if name in paths}
    for name, path in paths.items():
        inside = path if ".." not in path.parts else PurePosixPath("/")  # a group outside of what is mounted
        yield from (root / name / each.relative_to("/") for each in (inside, *inside.parents))


def _texts(group: Path, file: str) -> Iterator[str]:
    with suppress(OSError):
        yield (group / file).read_text().strip()
