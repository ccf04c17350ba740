"""The board of an engine process: a memory-mapped file in which it publishes the state of its queue and a heartbeat.

Fronts read it to refuse requests and to choose a device, without asking the engine process. Each number is written
atomically. Two numbers may be a few microseconds apart, which does not matter for an estimate.
"""

import mmap
import struct
import time
from pathlib import Path
from typing import Self

from service.admission import Load

BEAT, LOAD = struct.Struct("=d"), struct.Struct(f"={len(Load._fields)}d")
SIZE = BEAT.size + LOAD.size


def socket_path(directory: Path, device: int) -> Path:
    """Return the path of the socket of a device's engine process; only the service's user can enter the directory."""
    return directory / f"device-{device}.socket"


class Board:
    """Written by one engine process, read by fronts."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create a board, and replace one that an earlier process left; raise OSError if there is no space."""
        new = path.with_suffix(".new")
        new.write_bytes(bytes(SIZE))
        with new.open("r+b") as file:
            board = cls(mmap.mmap(file.fileno(), SIZE))
        board.beat()
        new.replace(path)
        return board

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the board of the engine process that was started last; raise OSError if there is none."""
        with path.open("rb") as file:
            return cls(mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ))

    def show(self, load: Load) -> None:
        """Write the state of the queue."""
        LOAD.pack_into(self._memory, BEAT.size, *load)

    def beat(self) -> None:
        """Write the heartbeat: the process is alive now."""
        BEAT.pack_into(self._memory, 0, time.monotonic())

    @property
    def load(self) -> Load:
        """The newest state of the queue."""
        return Load(*LOAD.unpack_from(self._memory, BEAT.size))

    @property
    def silence(self) -> float:
        """Seconds since the last heartbeat."""
        return time.monotonic() - float(BEAT.unpack_from(self._memory)[0])
