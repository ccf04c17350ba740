"""Files that appear whole or not at all, have checksums, and have one writer at a time."""

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
"""Name of the file of hashes, in the format of `sha256sum -c`."""
LOCK = ".lock"


def sync(directory: Path) -> None:
    """Flush the files of a directory to disk; call it before a rename makes them valid."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Write a file to PATH.partial, then rename it, so a reader sees the old text or the new one."""
    temporary = path.with_name(path.name + ".partial")
    with temporary.open("w", encoding="utf8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def refuse_existing(out: Path) -> None:
    """Raise DataError if the path exists: its content may be irreplaceable."""
    if out.exists():
        raise DataError(f"{out} exists; remove it, or name another place with --out")
    check_room(out)


def check_room(out: Path, option: str = "--out") -> None:
    """Raise DataError for a path that cannot be created, before the work starts; `option` is the flag that names it."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise DataError(f"{parent} is a file, expected a folder for {out.name}; name another place with {option}")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise DataError(f"{parent} is not writable, expected a folder for {out.name}; name another place with {option}")


@contextmanager
def new_file(out: Path) -> Iterator[TextIO]:
    """Yield a file to write: it becomes `out` when the block ends, and is removed when the block raises.

    Raise DataError if `out` exists, or if another command is writing it.
    """
    refuse_existing(out)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        raise DataError(
            f"{partial} exists, because another command is writing {out} or was killed; wait for it, or remove "
            f"{partial} if no command runs"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    file = partial.open("x", encoding="utf8")
    try:
        with file:
            yield file
        refuse_existing(out)  # it may exist by now
        partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(directory: Path) -> None:
    """Write the hashes of all files of a directory into it."""
    lines = [f"{hash_of(path)}  {path.name}\n" for path in sorted(directory.iterdir())]
    (directory / SUMS).write_text("".join(lines), encoding="utf8")


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Replace a directory: `write` fills TARGET.partial, which gets the hashes of its files and is renamed."""
    temporary = partial_of(target)
    shutil.rmtree(temporary, ignore_errors=True)
    write(temporary)
    write_sums(temporary)
    sync(temporary)
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)


def recover_directory(target: Path) -> None:
    """Finish a `write_directory` that was killed after the new directory was complete, but not yet renamed."""
    temporary = partial_of(target)
    if temporary.exists() and damage(target) and not damage(temporary):
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)


def partial_of(target: Path) -> Path:
    return target.with_name(target.name + ".partial")


def damage(directory: Path) -> str | None:
    """Return a sentence on the first file of a directory that differs from its recorded hash; None if all match."""
    try:
        lines = (directory / SUMS).read_text(encoding="utf8").splitlines()
        for line in lines:
            noted, name = line.split("  ", 1)
            if hash_of(directory / name) != noted:
                return f"{name} does not match its recorded hash"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError) as error:
        return f"{SUMS} cannot be checked ({error})"
    return None if lines else f"{SUMS} is empty"


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Lock a directory, which is created if needed; raise TrainingError if another process holds the lock."""
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
