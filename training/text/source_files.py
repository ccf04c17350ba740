"""The files that a command reads, which may not change before it has read them."""

from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from training.errors import DataError


class State(NamedTuple):
    """What tells a file from the same file later."""

    size: int
    """In bytes."""
    written: int
    """Time of the last write, in nanoseconds."""
    inode: int


class Sources:
    """Files as they were when this was made; raises DataError for one that is missing."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._began = {path: state_of(path) for path in files}

    def check(self) -> None:
        """Raise DataError for a file that was written to since: what was read of it is neither the old nor the new."""
        for path, before in self._began.items():
            now = state_of(path)
            if now != before:
                raise DataError(
                    f"{path} changed while it was read ({before.size:,} bytes at first, {now.size:,} now), expected a "
                    "file that nothing writes to; start the same command again when it is whole"
                )


def state_of(path: Path) -> State:
    try:
        found = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    if not S_ISREG(found.st_mode):
        return State(0, 0, found.st_ino)  # a pipe changes by being read
    return State(found.st_size, found.st_mtime_ns, found.st_ino)
