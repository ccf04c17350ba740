"""How many threads a run computes with: one for each usable core that other work leaves free.

Threads that share a sum wait for the slowest. With one of two cores busy, one thread made 71 steps per second and two
made 20. The number is kept for the whole run, because the last bits of a sum depend on how it is divided.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from models.cgroup import affinity, usable_cores

STAT = Path("/proc/stat")
MEASURED = 0.4
"""Seconds over which the load is measured: a few dozen ticks."""
IDLE = (3, 4)
"""Columns of /proc/stat: idle, and waiting for a disk (proc_stat(5))."""
COLUMNS = 8
"""Columns that are read; later ones are already included in these."""


def settled_threads(given: int, before: int) -> tuple[int, str]:
    """Return the threads of a run and the reason in words, "" if the recipe sets the number.

    `given` is the number in the recipe, 0 for none; `before` is the number at the first start, 0 if this is the first.
    """
    if before and given in (0, before):
        return before, "" if given else "as at the start of this run"
    if before:
        return given, f"{before} before: sums may differ in their last bits from those of an uninterrupted run"
    return (given, "") if given else choose_threads()


def choose_threads() -> tuple[int, str]:
    """Return the number of threads that fit this machine now, and the reason in words."""
    if given := os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), f"as set by OMP_NUM_THREADS={given}"
    cores, busy = usable_cores(), busy_cores()
    free = min(cores, len(affinity()) - busy)
    count = max(1, min(torch.get_num_threads(), int(free + 0.5)))
    return count, f"{cores} cores may be used, and other work keeps {busy:.1f} busy"


def busy_cores(stat: Path = STAT, seconds: float = MEASURED) -> float:
    """Return how many usable cores are busy while this process sleeps; 0 if the system does not say."""
    before = ticks(stat)
    time.sleep(seconds)
    after = ticks(stat)
    shares = 0.0
    for core in before.keys() & after.keys():
        passed = [late - early for early, late in zip(before[core], after[core], strict=True)]
        shares += 1 - sum(passed[column] for column in IDLE) / max(1, sum(passed))
    return shares


def ticks(stat: Path) -> dict[int, list[int]]:
    """Return the ticks of each usable core in each column, by the number of the core."""
    found = {}
    with suppress(OSError):  # macOS has no such file
        for line in stat.read_text().splitlines():
            name, *columns = line.split() or [""]
            number = name.removeprefix("cpu")
            if number.isdecimal() and int(number) in affinity():
                found[int(number)] = [int(column) for column in columns[:COLUMNS]]
    return found
