"""How much of a file its reader has read, whoever opened it and however it is compressed: the kernel knows it (Linux).

Parquet is read here and there, so its position says nothing before the end.
"""

import os
from contextlib import suppress
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")
OFFSETS = Path("/proc/self/fdinfo")


class Position:
    """Where the reading of a file in this process stands."""

    def __init__(self, file: Path) -> None:
        self._path = os.path.realpath(file)
        self._size = file.stat().st_size if file.exists() else 0
        self._before = 0

    def advance(self) -> int:
        """Return the bytes that were read since the last call; all that are left once the file is closed."""
        now = min(self._size, max(self._offsets(), default=self._size))
        advanced, self._before = max(0, now - self._before), max(now, self._before)
        return advanced

    def _offsets(self) -> list[int]:
        found = []
        with suppress(OSError):  # another system, or a file that was closed meanwhile
            for descriptor in os.listdir(DESCRIPTORS):
                with suppress(OSError):
                    if os.readlink(DESCRIPTORS / descriptor) == self._path:
                        found.append(int((OFFSETS / descriptor).read_text().split()[1]))
        return found
