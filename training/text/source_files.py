"""The files that a command reads: folders are listed, pipes copied, duplicates dropped, and changed files refused."""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from stat import S_ISCHR, S_ISFIFO, S_ISREG
from tempfile import TemporaryDirectory
from typing import NamedTuple

from training.errors import DataError
from training.run.atomic_files import hash_of
from training.run.progress import tell
from training.text.file_formats import FORMATS, files_in, named

STDIN = Path("/dev/stdin")
MAGIC = {b"\xfd7zXZ": "xz", b"\x1f\x8b": "gzip", b"(\xb5/\xfd": "zstd", b"BZh": "bzip2"}
"""First bytes of compressed files, and the programs that unpack them."""


class State(NamedTuple):
    """What shows whether a file has changed."""

    size: int
    """Size in bytes."""
    written: int
    """Time of the last write, in nanoseconds."""
    inode: int


class Sources:
    """The state of files at creation; raises DataError for a missing file."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._began = {path: state_of(path) for path in files}

    def check(self) -> None:
        """Raise DataError for a file that has changed since: what was read is neither the old nor the new file."""
        for path, before in self._began.items():
            now = state_of(path)
            if now != before:
                raise DataError(
                    f"{path} changed while it was read ({before.size:,} bytes at first, {now.size:,} now), expected a "
                    "file that nothing writes to; run the same command again when it is whole"
                )


def state_of(path: Path) -> State:
    found = stat_of(path)
    if not S_ISREG(found.st_mode):
        return State(0, 0, found.st_ino)  # reading changes a pipe
    return State(found.st_size, found.st_mtime_ns, found.st_ino)


def stat_of(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None


# ---- which files -----------------------------------------------------------------------------------------------------


@contextmanager
def readable_files(given: Sequence[Path], out: Path) -> Iterator[list[Path]]:
    """Yield the text files that `given` names, each of which can be read twice; raise DataError for other files.

    A folder stands for the files below it. A pipe ("-" is standard input) is copied to a temporary folder beside `out`,
    because a corpus reads its files from the beginning again after an interruption.
    """
    given = [STDIN if str(path) == "-" else path for path in given]
    pipes = [path for path in given if is_pipe(path)]
    if len(set(pipes)) < len(pipes):
        raise DataError(f"{pipes[0]} is named twice, but a pipe can be read once; name it once")
    found = [path for one in given for path in ([one] if one in pipes else text_files(one))]
    if not pipes:
        yield found
        return
    room = next(parent for parent in out.absolute().parents if parent.is_dir())
    with TemporaryDirectory(prefix=f".{out.name}.input-", dir=room) as directory:
        copies = {path: copied(path, Path(directory)) for path in pipes}
        yield [copies.get(path, path) for path in found]


def is_pipe(path: Path) -> bool:
    mode = stat_of(path).st_mode
    if S_ISCHR(mode) and path == STDIN and sys.stdin.isatty():
        raise DataError("standard input is a terminal, expected a pipe or a file; write: COMMAND | … - …")
    return S_ISFIFO(mode) or S_ISCHR(mode)


def text_files(path: Path) -> list[Path]:
    """Return a file itself, or the text files below a folder, in the order of their paths."""
    return files_in(path.resolve() if path == STDIN else path, "fill-mask", below=True)


def copied(pipe: Path, directory: Path) -> Path:
    """Copy a pipe to its end, under a name with the suffix of its content: JSON lines, Parquet, or text."""
    tell(f"{pipe}: reading to its end")
    with pipe.open("rb") as source:
        first = source.read(1 << 12)
        for magic, program in MAGIC.items():
            if first.startswith(magic):
                raise DataError(f"{pipe} is compressed, expected plain text; unpack it with: {program} -dc FILE | …")
        target = directory / name_of(pipe, first)
        with target.open("wb") as file:
            file.write(first)
            shutil.copyfileobj(source, file, 1 << 20)
    return target


def name_of(pipe: Path, first: bytes) -> str:
    if pipe.suffix and pipe.suffix in chain.from_iterable(FORMATS.values()):
        return pipe.name
    kind = ".parquet" if first.startswith(b"PAR1") else ".jsonl" if first.lstrip().startswith(b"{") else ".txt"
    return pipe.name + kind


def hashes(files: Sequence[Path]) -> dict[Path, str]:
    """Return the hash of each file, in order; of equal files only the first one."""
    found: dict[str, Path] = {}
    again: list[str] = []
    for path in files:
        digest = hash_of(path)
        if digest in found:
            again.append(f"{path} as {found[digest]}")
        else:
            found[digest] = path
    if again:
        tell(f"{len(again):,} of the files equal another one, and are read once: {named(again)}")
    return {path: digest for digest, path in found.items()}
