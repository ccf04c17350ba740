"""The formats of data files by their names, and the readable files of a folder."""

import os
from collections.abc import Sequence
from pathlib import Path

from training.errors import DataError
from training.run.progress import tell
from training.run.text_lines import OPENERS, unpacked_suffix

FORMATS: dict[str, tuple[str, ...]] = {
    "csv": (".csv", ".tsv", ".tab"),
    "json lines": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet",),
    "conll": (".conll", ".conllu", ".conll03", ".bio", ".iob", ".iob2", ".bioes"),
    "told by its text": (".txt", ""),
}
"""Suffixes of files, without that of the compression, by format."""
SHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
"""Spreadsheets, which no command reads."""
PACKED = f"plain or with {', '.join(OPENERS)}"
KNOWN = f"{', '.join(suffix for suffixes in FORMATS.values() for suffix in suffixes if suffix)}, {PACKED}"
TEXT_KNOWN = KNOWN.replace(f"{', '.join(FORMATS['conll'])}, ", "")
"""The same without the formats of words and tags."""
MAX_NAMED = 10
"""Files that a message names; the others are counted."""


def known(task: str) -> str:
    """Return the kinds of files that a task reads, in words."""
    return KNOWN if task == "tag" else TEXT_KNOWN


def format_of(path: Path, task: str) -> str:
    """Return the format of a file by its name; raise DataError if the task cannot use it."""
    suffix = unpacked_suffix(path)
    found = next((name for name, suffixes in FORMATS.items() if suffix in suffixes), None)
    packed = path.suffix.casefold() in OPENERS
    if found is None or (found == "parquet" and packed) or not (suffix or packed):
        remedy = "save the sheet as CSV UTF-8" if suffix in SHEETS else "rename or convert it"
        raise DataError(f"{path} ends in {path.suffix!r}, expected {known(task)}; {remedy}")
    if found == "conll" and task != "tag":
        raise DataError(f"{path} has words and tags, which {task} does not learn from; pass another file")
    return found


def files_in(path: Path, task: str, *, below: bool = False) -> list[Path]:
    """Return a file itself, or the sorted files of a folder that the task can use; `below` includes its subfolders.

    Print what is left out; raise DataError for a folder without such files.
    """
    if not path.is_dir():
        if str(path) == "-":
            raise DataError("- is standard input, expected a file; write it to a file first")
        if not path.exists():
            raise DataError(f"{path} does not exist, expected a data file; check the path")
        if not path.is_file():
            raise DataError(f"{path} is a pipe or a device, expected a file; write it to a file first")
        format_of(path, task)
        return [path]
    inside = sorted(_inside(path, below))
    found = [one for one in inside if _is_data(one, task)]
    data = set(found)
    left = [str(one.relative_to(path)) for one in inside if one not in data]
    if not found:
        rest = f"only {named(left)}" if left else "nothing"
        raise DataError(f"{path} cannot be read: the folder has {rest}, expected files in {known(task)}; name another")
    if left:
        tell(f"{path}: read {named([str(one.relative_to(path)) for one in found])}; skipped {named(left)}")
    return found


def named(names: Sequence[str]) -> str:
    """Return the first names, and the number of the others."""
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _inside(folder: Path, below: bool) -> list[Path]:
    """Return the entries of a folder; with `below`, its files and those of its subfolders, except hidden ones."""
    if not below:
        return list(folder.iterdir())
    found = []
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(directory) / name for name in names]
    return found


def _is_data(path: Path, task: str) -> bool:
    """Tell whether a file has a format of the task, and is neither hidden nor a README."""
    beside = path.name.startswith((".", "_")) or path.name.casefold().startswith(("readme", "license", "licence"))
    if beside or not path.is_file() or not unpacked_suffix(path):
        return False
    try:
        format_of(path, task)
    except DataError:
        return False
    return True
