"""Labeled data in any format: files and folders, read as the examples of a task.

    .csv .tsv · .json .jsonl · .parquet · .conll .conllu .bio .iob · SQuAD, doccano, Label Studio, spaCy, Prodigy

All formats except Parquet may be compressed (.xz .gz .zst .bz2). Changed, skipped and suspicious rows are reported on
standard error.
"""

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from models.task import TaskName
from training.errors import DataError
from training.run.option_types import count
from training.text.broken_rows import BrokenRows
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
from training.text.file_formats import KNOWN, files_in
from training.text.label_notes import note_labels, note_lists, note_words
from training.text.notes import Notes
from training.text.rows import rows_of

DATA_HELP = f"labeled files or folders, one or several: {KNOWN}"


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
    """Return the examples (the first `limit`) of each file, including those in folders.

    `columns` maps fields to columns, such as {"text": "sentence"}. Up to `skip_broken` broken rows are skipped and
    listed. Raise DataError for more of them, for a file without examples, and for a file that is not data.
    """
    named, notes, broken = Columns(task, columns), Notes(), BrokenRows(skip_broken)
    found: dict[Path, list[Example]] = {}
    for path in chain.from_iterable(files_in(path, task) for path in files):
        examples = [*found.get(path, []), *broken.parsed(rows_of(path, named, notes, limit), PARSERS[task])]
        if not examples:
            raise DataError(f"{path} has no examples, expected one or more; pass another file")
        found[path] = examples
    every = list(chain.from_iterable(found.values()))
    for note in (count_repeated, note_labels, note_lists, note_words):
        note(every, notes)
    broken.tell()
    notes.tell(str(*found) if len(found) == 1 else f"{len(found)} files")
    return found


# ---- reports -------------------------------------------------------------------------------------------------------


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
    """Return the input, for comparison."""
    return _sides(example)[0]


def _sides(example: Example) -> tuple[object, object]:
    """Return the input and the expected answer."""
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
    """Add the options of data files: --columns and --skip-broken."""
    example = "text=sentence,label=intent"
    told = f"columns of the fields, such as {example}; a single NAME is the column of the text; columns without names "
    told += "are numbered from 0; default: usual names"
    for flags, text in ((["--columns"], told), (["--column", "--text-column"], argparse.SUPPRESS)):
        parser.add_argument(*flags, dest="columns", type=parse_columns, default={}, metavar="FIELD=COLUMN,…", help=text)
    skip = "skip up to N broken rows and list them; default: 0"
    parser.add_argument("--skip-broken", type=count, default=0, metavar="N", help=skip)


def parse_columns(text: str) -> dict[str, str]:
    """Parse FIELD=COLUMN,FIELD=COLUMN, or only the column of the text; names with a comma are quoted as in CSV."""
    [entries] = csv.reader([text]) if text.strip() else [[]]
    known = {name for fields in FIELDS.values() for name in fields}
    found: dict[str, str] = {}
    for entry in map(str.strip, entries):
        name, _, column = entry.partition("=") if "=" in entry else ("text", "", entry)
        if name not in known or not column:
            wanted = f"FIELD=COLUMN with a field of {', '.join(sorted(known))}"
            raise argparse.ArgumentTypeError(f"{name}={column}: expected {wanted}, such as text=sentence")
        if name in found:
            wanted = f"one column, not {found[name]} and {column}"
            raise argparse.ArgumentTypeError(f"{name}={column}: expected {wanted}; write FIELD=COLUMN for each field")
        found[name] = column
    return found
