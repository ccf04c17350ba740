"""The records of a labeled file of any format, in the one form that examples are parsed from.

The reader of a format yields records. Their columns become the fields of the task, in one form for all tools.
A broken row is a DataError among the rows, so the reader decides whether to skip it.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from training.errors import DataError, RowError
from training.run.json_lines import Line, Row, json_lines
from training.run.text_lines import text_lines
from training.text.columns import FIELDS, Columns
from training.text.file_formats import format_of
from training.text.formats.conll_file import conll_rows, is_tagged
from training.text.formats.csv_file import csv_rows
from training.text.formats.json_file import json_rows
from training.text.formats.parquet_file import parquet_rows
from training.text.formats.text_file import line_rows, text_rows
from training.text.notes import Notes
from training.text.question_forms import with_answers
from training.text.span_exports import unwrap, with_spans
from training.text.tag_schemes import to_bio

INTEGER = re.compile(r"-?(0|[1-9]\d*)")
FRACTION = re.compile(r"-?\d+\.\d+([eE][-+]?\d+)?")
FIRST_LINES = 50
"""Number of lines that decide between plain text and words with tags."""
LISTS = ("tokens", "tags", "spans", "answers")
"""Fields that are lists or objects; a cell of a table has them as JSON."""


def rows_of(
    path: Path, columns: Columns, notes: Notes, limit: int | None = None, *, one_per_line: bool = False
) -> Iterator[Row]:
    """Yield the (first `limit`) records of a file, with the fields of the task of `columns`.

    Changes are counted in `notes`. In plain text a document ends at a blank line, or with `one_per_line` at each line.
    Raise DataError for a file that cannot be read.
    """
    kind = format_of(path, columns.task)
    kind = _format_by_text(path, columns.task) if kind == "told by its text" else kind
    found = islice(_read(path, kind, columns, one_per_line), limit)
    formed = (_formed(row, columns, notes, kind) for row in found)
    rows = (row for row in formed if row is not None)
    yield from _in_bio(list(rows), notes) if columns.task == "tag" else rows


def unlabeled_rows(path: Path, columns: Columns) -> Iterator[Row]:
    """Yield every record of a file with the inputs of the task; no row is left out, and labels are not read.

    A row of empty cells is a record too, and so is each line of plain text. A broken row is a RowError among the rows.
    Raise DataError if the rest of the file cannot be read, and ColumnError if its columns do not fit.
    """
    kind = unlabeled_format(path, columns)
    for row in _read_unlabeled(path, kind, columns):
        try:
            if isinstance(row, DataError):
                raise row
            yield _asked(row, columns, kind)
        except RowError as error:
            yield error
        except DataError as error:
            broken = RowError(str(error), row.line if isinstance(row, Line) else 0)
            broken.__cause__ = error
            yield broken


def unlabeled_format(path: Path, columns: Columns) -> str:
    """Return the format of a file; for .txt its first lines decide, and in doubt each line is a text."""
    kind = format_of(path, columns.task)
    if kind != "told by its text":
        return kind
    lines = (line.strip() for line in text_lines(path) if isinstance(line, str))
    beginning = list(islice(filter(None, lines), FIRST_LINES))
    first = beginning[0] if beginning else ""
    if first.startswith("{") and (first.endswith("}") or _is_json(first)):
        return "json lines"
    if columns.task == "tag" and (beginning and all(map(is_tagged, beginning)) or "tokens" in columns.chosen):
        return "conll"
    return "csv" if columns.task in ("pair", "qa") or columns.heads(re.split(r"[,;\t|]", first)) else "text"


def _read_unlabeled(path: Path, kind: str, columns: Columns) -> Iterator[Row]:
    if kind == "csv":
        return csv_rows(path, columns.name, skip_empty=False)
    if kind == "conll":
        return conll_rows(path, columns.chosen, tagged=False)
    return line_rows(path) if kind == "text" else _read(path, kind, columns, False)


def _asked(line: Line, columns: Columns, kind: str) -> Line:
    if kind in ("conll", "text"):
        return line
    found = columns.rename(unwrap(line, Notes(), labeled=False) or line)
    if kind == "csv" and columns.task == "tag" and "tokens" in found.record:
        return replace(found, record=found.record | {"tokens": _listed(found, "tokens")})
    return found


def _format_by_text(path: Path, task: str) -> str:
    lines = (line.strip() for line in text_lines(path) if isinstance(line, str))
    begin = next(filter(None, lines), "")
    if task == "fill-mask":  # a document may start with a brace
        return "json lines" if begin.startswith("{") and _is_json(begin) else "text"
    if begin.startswith("{") or not begin:
        return "json lines"
    return "conll" if task == "tag" else "csv"


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _read(path: Path, kind: str, columns: Columns, one_per_line: bool) -> Iterator[Row]:
    if kind == "csv":
        return csv_rows(path, columns.name)
    if kind == "conll":
        return conll_rows(path, columns.chosen)
    if kind == "parquet":
        return parquet_rows(path, columns.read)
    if kind == "text":
        return text_rows(path, one_per_line)
    return json_lines(path) if kind == "json lines" else json_rows(path)


# ---- one form --------------------------------------------------------------------------------------------------------


def _formed(row: Row, columns: Columns, notes: Notes, kind: str) -> Row | None:
    """Return a record in the form of its task; None for a record without labels, which is counted."""
    if isinstance(row, DataError):
        return row
    try:
        line = unwrap(row, notes, columns.labeled)
        if line is None:
            return None
        if kind not in ("conll", "text"):  # a conll file is read by column numbers, and a text has no columns
            line = columns.rename(line)
        if kind == "csv" and columns.task != "fill-mask":
            line = _typed(line, columns.task)
        if columns.task == "tag":
            return with_spans(_named_tags(line), notes)
        return with_answers(line) if columns.task == "qa" else line
    except DataError as error:
        return error


def _named_tags(line: Line) -> Line:
    tags = line.record.get("tags")
    if isinstance(tags, list) and tags and all(type(tag) is int for tag in tags):
        line.fail(
            f'"tags"[0] is the number {tags[0]}, expected a tag such as B-PER: the file does not say what its numbers '
            "mean; write their names"
        )
    return line


def _in_bio(rows: list[Row], notes: Notes) -> Iterator[Row]:
    """Yield the rows of a file with tags in BIO; only all rows together show their scheme."""
    tagged = [row for row in rows if isinstance(row, Line) and _is_tags(row.record.get("tags"))]
    found, changed, scheme = to_bio([line.record["tags"] for line in tagged])
    for line, tags in zip(tagged, found, strict=True):
        line.record["tags"] = tags
    if changed:
        notes[f"tags converted to BIO from {scheme}"] += changed
    yield from rows


def _is_tags(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str) for tag in value)


# ---- cells of tables -------------------------------------------------------------------------------------------------


def _typed(line: Line, task: str) -> Line:
    """Convert the cells of labels, lists and answers to their types; texts that look like numbers stay texts."""
    record = line.record
    changes: dict[str, Any] = {name: _listed(line, name) for name in LISTS if name in record and name in FIELDS[task]}
    if "label" in record:
        changes["label"] = _value(line, record["label"])
    if record.get("answer_start"):
        changes["answer_start"] = _value(line, record["answer_start"])
    if "is_impossible" in record:
        changes["is_impossible"] = record["is_impossible"].strip().casefold() in ("true", "1")
    return replace(line, record=record | changes) if changes else line


def _value(line: Line, cell: str) -> Any:
    """Return a number, true or false, a list (of several labels), or the text itself."""
    text = cell.strip()
    if text.casefold() in ("true", "false"):  # pandas writes True, Excel TRUE
        return text.casefold() == "true"
    if INTEGER.fullmatch(text):
        return int(text)
    if FRACTION.fullmatch(text):
        return float(text)
    if text.startswith(("['", '["', "[]")):
        return _nested(line, "label", text)
    return text


def _listed(line: Line, name: str) -> Any:
    """Return the list or object in a cell; words or tags without brackets are split at blanks."""
    text = line.record[name].strip()
    if name in ("tokens", "tags") and not text.startswith("["):
        return text.split()
    return _nested(line, name, text) if text.startswith(("[", "{")) else text


def _nested(line: Line, name: str, text: str) -> Any:
    """Parse JSON, or Python's notation of a list or a dictionary, which pandas writes to CSV."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        value = None
    if repr(value) != text:  # Python reads 'a' 'b' as one string, but numpy writes two strings like that
        line.fail(f'"{name}" is {text[:60]!r}, expected JSON such as ["a", "b"]; write it with json.dumps')
    return value
