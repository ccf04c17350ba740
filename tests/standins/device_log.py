"""The log of the CUDA stand-ins: the calls of a process to the device, in order, and when the device was busy."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

COMPUTES = ("kernel", "product")


class Entry(NamedTuple):
    """A line of a log. Times are nanoseconds: when the work was requested, started and ended."""

    what: str
    """kernel, product, copy, plan, stream, wait, call, take, give back, pin, unpin; or missing: no stand-in does it."""
    name: str
    """Of a kernel, as the compiler calls it; direction of a copy; rows×columns×depth*count of a product."""
    amount: float
    """Bytes, or the multiply-adds of a product."""
    device: int
    stream: int
    asked: int
    start: int
    end: int


@dataclass(frozen=True)
class DeviceLog:
    """Entries of one process, in the order of its calls."""

    entries: list[Entry]

    @property
    def work(self) -> list[Entry]:
        """Kernels and products."""
        return [entry for entry in self.entries if entry.what in COMPUTES]

    def count(self, what: str) -> int:
        return sum(entry.what == what for entry in self.entries)

    def kernels(self) -> Counter[str]:
        return Counter(entry.name for entry in self.entries if entry.what == "kernel")

    def copies(self) -> Counter[tuple[str, int]]:
        """Number of copies, by direction (HtoD, DtoH, DtoD) and bytes."""
        return Counter((entry.name, int(entry.amount)) for entry in self.entries if entry.what == "copy")

    def bytes_taken(self) -> int:
        """Memory of the device that is in use at the end."""
        signs = {"take": 1, "give back": -1}
        return sum(int(entry.amount) * signs.get(entry.what, 0) for entry in self.entries if entry.name != "refused")

    def idle(self) -> list[int]:
        """Nanoseconds that a device was idle before each piece of work, in order, except the first."""
        free: dict[int, int] = {}
        waits = []
        for entry in sorted(self.work, key=lambda entry: entry.start):
            waits += [max(0, entry.start - free[entry.device])] if entry.device in free else []
            free[entry.device] = max(entry.end, free.get(entry.device, 0))
        return waits

    def busy(self) -> int:
        """Nanoseconds in which a device was busy with one or more streams."""
        ends: dict[int, int] = {}
        total = 0
        for entry in sorted(self.work, key=lambda entry: entry.start):
            total += max(0, entry.end - max(entry.start, ends.get(entry.device, 0)))
            ends[entry.device] = max(entry.end, ends.get(entry.device, 0))
        return total


def read_logs(directory: Path) -> list[DeviceLog]:
    """Read the logs of all processes that wrote into a directory, in the order of their ids."""
    files = sorted(directory.iterdir(), key=lambda file: int(file.name))
    return [DeviceLog(parse(file.read_text().splitlines())) for file in files]


def parse(lines: Iterable[str]) -> list[Entry]:
    """Read the lines of a log."""
    entries = []
    for line in lines:
        what, name, amount, *numbers = line.split("\t")
        entries.append(Entry(what, name, float(amount), *map(int, numbers)))
    return entries
