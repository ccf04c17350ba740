"""How many cores this process may use: by affinity and by the quota of its control group, not by what the machine has.

In a container that may use two of 64 cores, 64 threads would wait for each other most of the time.
"""

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cores(root: Path = CGROUP) -> int:
    """Return at least 1; a fraction of a core counts as one."""
    affinity = len(os.sched_getaffinity(0))
    quota = _quota(root)
    return affinity if quota is None else max(1, min(affinity, round(quota)))


def _quota(root: Path) -> float | None:
    """CPU-seconds a second, None without a limit (cgroup v2: "MAX PERIOD" or "max PERIOD"; v1: two files, or -1)."""
    unified = root / "cpu.max"
    if unified.exists():
        limit, period = unified.read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    quota, period_file = root / "cpu/cpu.cfs_quota_us", root / "cpu/cpu.cfs_period_us"
    if quota.exists() and period_file.exists():
        microseconds = int(quota.read_text())
        return None if microseconds < 0 else microseconds / int(period_file.read_text())
    return None
