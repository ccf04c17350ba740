"""Files that appear whole or not at all, are known by their sums, and have one writer at a time."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from training.errors import DataError, TrainingError

SUMS = "SHA256SUMS"
"""What `sha256sum -c` reads."""
LOCK = ".lock"


def sync(directory: Path) -> None:
    """Make sure that the files are on disk before a rename makes them count."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Replace a file by way of PATH.partial."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def refuse_existing(out: Path) -> None:
    """Raise DataError where something stands already: it may be what nobody can make again."""
    if out.exists():
        raise DataError(f"{out} exists; remove it, or name another place with --out")
    check_room(out)


def check_room(out: Path) -> None:
    """Raise DataError for a path that cannot be made, before the work whose result it is to hold."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise DataError(f"{parent} is a file, expected a folder for {out.name}; name another place with --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(f"{parent} cannot be written to, expected room for {out.name}; name another place with --out")


@contextmanager
def new_file(out: Path) -> Iterator[TextIO]:
    """A file to write, which becomes `out` when the block ends, and vanishes when the block raises.

    Raise DataError for an `out` that exists, or that another command is about to write.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    refuse_existing(partial)
    file = partial.open("x", encoding="utf8")
    try:
        with file:
            yield file
        refuse_existing(out)  # by now
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(directory: Path) -> None:
    """Note the hashes of all files of a directory in it."""
    lines = [f"{hash_of(path)}  {path.name}\n" for path in sorted(directory.iterdir())]
    (directory / SUMS).write_text("".join(lines), encoding="utf8")


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Replace a directory by way of TARGET.partial, which `write` fills, and note the hashes of its files in it."""
    temporary = partial_of(target)
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    write_sums(temporary)
    sync(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def recover_directory(target: Path) -> None:
    """Finish what `write_directory` was about to do when it was killed: the new one is whole, the old one is not."""
    temporary = partial_of(target)
    if temporary.exists() and damage(target) and not damage(temporary):
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


def partial_of(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def damage(directory: Path) -> str | None:
    """Say in words which file of a directory is not the one that was noted there; None where all are."""
    try:
        lines = (directory / SUMS).read_text(encoding="utf8").splitlines()
        for line in lines:
            noted, name = line.split("  ", 1)
            if hash_of(directory / name) != noted:
                return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be followed ({error})"
    return None if lines else f"{SUMS} is empty"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Be the only process that writes to a directory, made if needed; raise TrainingError where another one does."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"{directory} is being written by another process, expected one at a time; wait for it, or name "
                "another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
