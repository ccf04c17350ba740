"""How many threads a run computes with: one for each core that it may use and that other work leaves free.

Threads of one sum wait for the slowest. With a busy neighbour on one of two cores, one thread took 71 steps per second
and two took 20. The number is kept for the whole run, because the last bits of a sum depend on how it is divided.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import torch

from models.cgroup import affinity, usable_cores

STAT = Path("/proc/stat")
MEASURED = 0.4
"""Seconds over which the load is measured, some dozens of ticks."""
IDLE = (3, 4)
"""Columns of /proc/stat: idle, and waiting for a disk (proc_stat(5))."""
COLUMNS = 8
"""Those after them are parts of others."""


def settled_threads(given: int, before: int) -> tuple[int, str]:
    """Return the threads of a run that began with `before` (0: it begins now), and why in words, "" as was asked.

    `given` is what its recipe says, 0 for no number.
    """
    if before and given in (0, before):
        return before, "" if given else "as this run began"
    if before:
        return given, f"{before} before: sums may differ in their last bits from those of an uninterrupted run"
    return (given, "") if given else choose_threads()


def choose_threads() -> tuple[int, str]:
    """Return how many threads fit this machine now, and why in words."""
    if given := os.environ.get("OMP_NUM_THREADS"):
        return torch.get_num_threads(), f"as OMP_NUM_THREADS={given} says"
    cores, busy = usable_cores(), busy_cores()
    free = min(cores, len(affinity()) - busy)
    count = max(1, min(torch.get_num_threads(), int(free + 0.5)))
    return count, f"{cores} cores may be used, and other work keeps {busy:.1f} busy"


def busy_cores(stat: Path = STAT, seconds: float = MEASURED) -> float:
    """Return how many of the cores that this process may run on are busy while it sleeps; 0 where nothing says it."""
    before = ticks(stat)
    time.sleep(seconds)
    after = ticks(stat)
    shares = 0.0
    for core in before.keys() & after.keys():
        passed = [late - early for early, late in zip(before[core], after[core], strict=True)]
        shares += 1 - sum(passed[column] for column in IDLE) / max(1, sum(passed))
    return shares


def ticks(stat: Path) -> dict[int, list[int]]:
    """The columns of each core that this process may run on."""
    found = {}
    with suppress(OSError):  # there is none on macOS
        for line in stat.read_text().splitlines():
            name, *columns = line.split() or [""]
            number = name.removeprefix("cpu")
            if number.isdecimal() and int(number) in affinity():
                found[int(number)] = [int(column) for column in columns[:COLUMNS]]
    return found
