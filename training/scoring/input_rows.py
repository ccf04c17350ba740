"""The rows of a data file as inputs of a head: each is an input or an error, and no row is left out."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models.task_registry import RouteName
from training.errors import DataError, RowError
from training.run.json_lines import Line, Row
from training.scoring.job import Job
from training.text.columns import Columns
from training.text.rows import unlabeled_rows

FIELDS: dict[RouteName, tuple[str, ...]] = {
    "classify": ("text",),
    "pair": ("text_a", "text_b"),
    "fill-mask": ("text",),
    "tag": ("text",),
    "qa": ("question", "context"),
    "zero-shot": ("text",),
}
"""The fields of an input by route; they are columns of the output. Given words become a text, joined by blanks."""
MAX_CHARACTERS = 1 << 22
"""Maximum characters of an input, four times those of a request: more would take gigabytes to tokenize."""
SURROGATES = re.compile("[\ud800-\udfff]")
"""Surrogates, which JSON can write but UTF-8 cannot."""


class InputRow(NamedTuple):
    """One row of the input."""

    id: str
    """The row's own id, or FILE:LINE."""
    fields: tuple[str | None, ...]
    """The texts of the input in the order of FIELDS; None for other values."""
    kept: tuple[str | None, ...]
    """The columns of `Job.keep`."""
    input: Any
    """What `Predictor` accepts; None if there is an error."""
    error: str | None
    """The error of the row."""

    @property
    def characters(self) -> int:
        return sum(len(text) for text in (*self.fields, *self.kept) if text)


def columns_of(job: Job, tells: bool = False) -> Columns:
    """Return the columns of a job; raise ColumnError if `--columns` names an unknown field."""
    task = "classify" if job.route == "zero-shot" else job.route
    extra = {"id": ("id",)} | {name: () for name in job.keep}
    return Columns(task, job.columns, labeled=False, extra=extra, tells=tells)


def input_rows(job: Job, file: Path) -> Iterator[InputRow]:
    """Yield every row of a file in order; raise DataError if the rest cannot be read."""
    name = job.name(file)
    for number, row in enumerate(unlabeled_rows(file, columns_of(job)), start=1):
        place = f"{name}:{_line_of(row) or number}"
        try:
            if isinstance(row, DataError):
                raise row
            yield _input_row(job, row, place)
        except RowError as error:
            record = row.record if isinstance(row, Line) else {}
            message = str(error).replace(str(file), name, 1)
            fields = (as_text(record.get(key)) for key in FIELDS[job.route])
            kept = (as_text(record.get(key)) for key in job.keep)
            yield InputRow(own_id(record) or place, tuple(fields), tuple(kept), None, message)


def _line_of(row: Row) -> int:
    """Return the first line of a row; 0 in a file without lines."""
    return row.line if isinstance(row, Line) else row.number if isinstance(row, RowError) else 0


def _input_row(job: Job, line: Line, place: str) -> InputRow:
    fields, given = _given(job.route, line)
    size = sum(map(len, fields))
    if size > MAX_CHARACTERS:
        line.fail(f"the input has {size:,} characters, expected at most {MAX_CHARACTERS:,}; split it")
    kept = tuple(as_text(line.record.get(key)) for key in job.keep)
    return InputRow(own_id(line.record) or place, fields, kept, given, None)


def _given(route: RouteName, line: Line) -> tuple[tuple[str, ...], Any]:
    """Return the texts of an input, and the input in the form of the head."""
    if route == "tag" and _has_words(line):
        words = [line.check_string(word, f'"tokens"[{index}]', empty=True) for index, word in _words(line)]
        return (" ".join(words),), words
    fields = tuple(line.string(key) for key in FIELDS[route])
    if route == "pair":
        return fields, {"text": fields[0], "text_pair": fields[1]}
    if route == "qa":
        return fields, {"question": fields[0], "context": fields[1]}
    return fields, fields[0]


def _has_words(line: Line) -> bool:
    """Tell whether a record has words; if it has a text too, as in Prodigy, words must be strings."""
    words = line.record.get("tokens")
    return "text" not in line.record or (isinstance(words, list) and all(isinstance(word, str) for word in words))


def _words(line: Line) -> Iterator[tuple[int, Any]]:
    words = line.value("tokens" if "tokens" in line.record else "text")
    if not isinstance(words, list) or not words:
        line.fail(f'"tokens" is {str(words)[:40]!r}, expected a list of words; correct the row')
    return enumerate(words)


# ---- ids and copied columns ------------------------------------------------------------------------------------------


def own_id(record: dict[str, Any]) -> str:
    """Return the id of a record as text, "" without one."""
    found = record.get("id")
    is_missing = found is None or found != found  # pandas writes NaN for a missing number
    return "" if is_missing or isinstance(found, bool | list | dict) else (as_text(found) or "")


def as_text(value: Any) -> str | None:
    """Return a value for a cell: a text itself, or the JSON of a number, list or object."""
    if value is None or isinstance(value, str):
        found = value
    elif isinstance(value, bool | int | float | list | dict):
        found = json.dumps(value, ensure_ascii=False, default=str)
    else:
        found = str(value)
    return SURROGATES.sub("\ufffd", found) if found else found
