"""Labelled data of any format: files and folders, read as the examples of a task.

    .csv .tsv · .json .jsonl · .parquet · .conll .conllu .bio .iob · SQuAD, doccano, Label Studio, spaCy, Prodigy

All but Parquet also as .xz .gz .zst .bz2. What was changed, skipped or looks wrong is told on standard error.
"""

import argparse
import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from models.task import TaskName
from training.errors import DataError
from training.run.json_lines import Row
from training.run.progress import tell
from training.run.text_lines import unpacked_suffix
from training.text.columns import FIELDS, Columns
from training.text.examples import (
    PARSERS,
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
)
from training.text.label_notes import note_labels
from training.text.notes import Notes
from training.text.rows import KNOWN, SUFFIXES, rows_of

MAX_LISTED = 10
"""Skipped rows that are told one by one."""
DATA_HELP = f"labelled files, or folders of them: {KNOWN}; several count together"


def read_data(
    files: Sequence[Path],
    task: TaskName,
    columns: Mapping[str, str] = MappingProxyType({}),
    skip_broken: int = 0,
    limit: int | None = None,
) -> list[Example]:
    """Return the examples of files and folders together, as read_files reads them."""
    return list(chain.from_iterable(read_files(files, task, columns, skip_broken, limit).values()))


def read_files(
    files: Sequence[Path],
    task: TaskName,
    columns: Mapping[str, str] = MappingProxyType({}),
    skip_broken: int = 0,
    limit: int | None = None,
) -> dict[Path, list[Example]]:
    """Return the examples (the first `limit`) of each file, those of folders included.

    `columns` maps fields to columns, such as {"text": "sentence"}. Up to `skip_broken` broken rows are skipped, and
    told; raise DataError for one more, for a file without examples, and for what is no data file.
    """
    named, notes, broken = Columns(task, columns), Notes(), BrokenRows(skip_broken)
    found: dict[Path, list[Example]] = {}
    for path in chain.from_iterable(map(files_in, files)):
        examples = [*found.get(path, []), *parsed(rows_of(path, named, notes, limit), task, broken)]
        if not examples:
            raise DataError(f"{path} holds no examples, expected one or more; pass another file")
        found[path] = examples
    count_repeated(chain.from_iterable(found.values()), notes)
    note_labels(chain.from_iterable(found.values()), notes)
    broken.tell()
    notes.tell(str(*found) if len(found) == 1 else f"{len(found)} files")
    return found


def parsed(rows: Iterable[Row], task: str, broken: "BrokenRows") -> Iterator[Example]:
    for row in rows:
        try:
            if isinstance(row, DataError):
                raise row
            yield PARSERS[task](row)
            broken.whole += 1
        except DataError as error:
            broken.add(error)


@dataclass
class BrokenRows:
    """Rows that are skipped, as long as there are not more than allowed."""

    allowed: int
    count: int = 0
    whole: int = 0
    """Rows that are not broken: without any, to skip rows would not help."""
    first: list[DataError] = field(default_factory=list)

    def add(self, error: DataError) -> None:
        """Count a row; raise its error where it is one too many."""
        if self.count == self.allowed:
            self.tell()
            raise DataError(f"{error}{self._remedy()}")
        self.count += 1
        if self.count <= MAX_LISTED:
            self.first.append(error)

    def _remedy(self) -> str:
        if self.count:
            return f" (broken rows skipped before it: {self.count:,}, as many as --skip-broken allows)"
        return "; or skip such rows with --skip-broken N" if self.whole else ""

    def tell(self) -> None:
        for error in self.first:
            tell(f"skipped: {error}")
        if self.count > len(self.first):
            tell(f"skipped: {self.count - len(self.first):,} more broken rows")


# ---- files -----------------------------------------------------------------------------------------------------------


def files_in(path: Path) -> list[Path]:
    """Return a file as it is, and of a folder the files that can be read, sorted; tell what else is in it."""
    if not path.is_dir():
        if str(path) == "-" or (path.exists() and not path.is_file()):
            raise DataError(f"{path} is a pipe or a device, expected a file; write it to a file first")
        return [path]
    inside = sorted(path.iterdir())
    found = [one for one in inside if one.is_file() and not _is_beside(one) and unpacked_suffix(one) in SUFFIXES]
    left = ", ".join(one.name for one in inside if one not in found)
    if not found:
        rest = f"only {left[:200]}" if left else "nothing"
        raise DataError(f"{path} cannot be read: the folder holds {rest}, expected files in {KNOWN}; name another")
    if left:
        tell(f"{path}: read {', '.join(one.name for one in found)[:500]}; skipped {left[:500]}")
    return found


def _is_beside(path: Path) -> bool:
    """Whether a file is no data by its name: hidden, or a README."""
    return path.name.startswith((".", "_")) or path.name.casefold().startswith(("readme", "license", "licence"))


# ---- what is told ----------------------------------------------------------------------------------------------------


def count_repeated(examples: Iterable[Example], notes: Notes) -> None:
    """Count examples that are equal to an earlier one, and inputs that have different labels."""
    seen: dict[object, object] = {}
    different = set()
    for example in examples:
        asked, answer = _sides(example)
        if asked not in seen:
            seen[asked] = answer
        elif seen[asked] == answer:
            notes["rows equal to an earlier one"] += 1
        else:
            different.add(asked)
    notes["texts with different labels in different rows"] += len(different)


def input_key(example: Example) -> object:
    """Return what is asked, for comparison."""
    return _sides(example)[0]


def _sides(example: Example) -> tuple[object, object]:
    """What is asked, and what should be answered."""
    if isinstance(example, TextExample):
        return example.text, example.label
    if isinstance(example, PairExample):
        return (example.text_a, example.text_b), example.label
    if isinstance(example, TaggedExample):
        return tuple(example.tokens), tuple(example.tags)
    if isinstance(example, SpannedText):
        return example.text, tuple(example.spans)
    if isinstance(example, QuestionExample):
        return (example.context, example.question), tuple(example.answers)
    return example.text, None


# ---- options ---------------------------------------------------------------------------------------------------------


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add --columns and --skip-broken, which go with files of labelled data."""
    example = "text=sentence,label=intent"
    told = f"which column is which field, such as {example}; columns without names count from 0; usual names are known"
    parser.add_argument("--columns", type=parse_columns, default={}, metavar="FIELD=COLUMN,…", help=told)
    skip = "skip up to N broken rows and list them; default 0"
    parser.add_argument("--skip-broken", type=_count, default=0, metavar="N", help=skip)


def parse_columns(text: str) -> dict[str, str]:
    """Read FIELD=COLUMN,FIELD=COLUMN; a column with a comma in its name is quoted as in CSV."""
    [entries] = csv.reader([text]) if text.strip() else [[]]
    found = dict(entry.strip().partition("=")[::2] for entry in entries)
    known = {name for fields in FIELDS.values() for name in fields}
    for name, column in found.items():
        if name not in known or not column:
            wanted = f"FIELD=COLUMN with a field of {', '.join(sorted(known))}"
            raise argparse.ArgumentTypeError(f"{name}={column}: expected {wanted}, such as text=sentence")
    return found


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)
