"""How much of a file has been read, by any reader and with any compression; Linux reports it in /proc.

Parquet files are read at random places, so their position means nothing before the end.
"""

import os
from contextlib import suppress
from pathlib import Path

DESCRIPTORS = Path("/proc/self/fd")
OFFSETS = Path("/proc/self/fdinfo")


class Position:
    """The position of a file that this process reads."""

    def __init__(self, file: Path) -> None:
        self._path = os.path.realpath(file)
        self._size = file.stat().st_size if file.exists() else 0
        self._before = 0

    def advance(self) -> int:
        """Return the bytes read since the last call; after the file is closed, all remaining ones."""
        now = min(self._size, max(self._offsets(), default=self._size))
        advanced, self._before = max(0, now - self._before), max(now, self._before)
        return advanced

    def _offsets(self) -> list[int]:
        found = []
        with suppress(OSError):  # not Linux, or the file was closed meanwhile
            for descriptor in os.listdir(DESCRIPTORS):
                with suppress(OSError):
                    if os.readlink(DESCRIPTORS / descriptor) == self._path:
                        found.append(int((OFFSETS / descriptor).read_text().split()[1]))
        return found
