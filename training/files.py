"""Files that appear whole or not at all."""

import os
from pathlib import Path


def sync(directory: Path) -> None:
    """Make sure that the files are on disk before a rename makes them count."""
    for path in directory.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_whole(path: Path, text: str) -> None:
    """Replace a file by way of PATH.partial."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text, encoding="utf8")
    temporary.replace(path)
