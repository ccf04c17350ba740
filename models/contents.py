"""The files of a bundle, verified as they are read: exactly the bytes that were hashed are used.

Later, nothing is read from the bundle's directory again, so overwriting or truncating its files does not affect a
running service. Constants of graphs are mapped into memory. So they get a private copy, which is deleted once the
graphs are open; all sessions of a process share its memory, as they would share the original file.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from models.errors import BundleError
from models.onnx_runtime import Constants, Graph

AGAIN = "restore the file or export the bundle again"
CONSTANTS = ".bin"
"""Suffix of the files that hold constants of graphs."""
MEMORY = Path("/dev/shm")
FREE = 2
"""A private copy is made only in a directory with at least this many times its size free."""


class Contents:
    """Reads files below `directory` and checks them against `hashes` (SHA-256); as a context, it also reads graphs."""

    def __init__(self, directory: Path, hashes: Mapping[str, str]) -> None:
        self.directory = directory
        self.hashes = hashes
        self._constants: Constants = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._constants = self._place_constants()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, file: str) -> bytes:
        """Read a file; raise BundleError if it is missing or has another hash."""
        path = self.directory / file
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path} cannot be read ({error.strerror}); {AGAIN}") from None
        digest = hashlib.sha256(contents).hexdigest()
        if digest != self.hashes[file]:
            raise BundleError(f"{path} has SHA-256 {digest}, expected {self.hashes[file]}; {AGAIN}")
        return contents

    def check(self, file: str) -> None:
        """Raise BundleError if a file has another hash; constants were checked when this context began."""
        if not file.endswith(CONSTANTS):
            self.read(file)

    def graph(self, file: str) -> Graph:
        """Read a graph; it must be opened before this context ends."""
        folder, constants = Path(file).parent, self._constants
        if isinstance(constants, Path):
            return Graph(self.directory / file, self.read(file), constants / folder)
        below = {name: data for name, data in constants.items() if Path(name).is_relative_to(folder)}
        near = {Path(name).relative_to(folder).as_posix(): data for name, data in below.items()}
        return Graph(self.directory / file, self.read(file), near)

    def _place_constants(self) -> Constants:
        """Copy the constants to a directory; if none has room, keep them in memory, with one copy per session."""
        files = [file for file in self.hashes if file.endswith(CONSTANTS)]
        for parent in _parents(sum(self._size(file) for file in files)):
            with ExitStack() as made, suppress(OSError):
                private = Path(made.enter_context(tempfile.TemporaryDirectory(prefix="bertheads-", dir=parent)))
                for file in files:
                    contents = self.read(file)
                    (private / file).parent.mkdir(parents=True, exist_ok=True)
                    (private / file).write_bytes(contents)
                self._stack.push(made.pop_all())
                return private
        return {file: self.read(file) for file in files}

    def _size(self, file: str) -> int:
        try:
            return (self.directory / file).stat().st_size
        except OSError as error:
            raise BundleError(f"{self.directory / file} cannot be read ({error.strerror}); {AGAIN}") from None


def _parents(size: int) -> Iterator[Path]:
    """Yield directories with enough room: a disk first, because in containers /dev/shm is small and holds metrics."""
    with suppress(OSError):
        yield from (each for each in [Path(tempfile.gettempdir())] if shutil.disk_usage(each).free >= FREE * size)
    with suppress(OSError):
        yield from (each for each in [MEMORY] if shutil.disk_usage(each).free >= FREE * size)
