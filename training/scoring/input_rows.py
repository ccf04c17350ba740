"""The rows of a data file as inputs of a head: each is an input or an error, and none is left out."""

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
from training.text.rows import unlabelled_rows

FIELDS: dict[RouteName, tuple[str, ...]] = {
    "classify": ("text",),
    "pair": ("text_a", "text_b"),
    "fill-mask": ("text",),
    "tag": ("text",),
    "qa": ("question", "context"),
    "zero-shot": ("text",),
}
"""The fields of an input by route, which are columns of the output. Given words are a text: joined by single blanks."""
MAX_CHARACTERS = 1 << 22
"""Of one input, four times what a request to the service may hold: more would take gigabytes to tokenise."""
SURROGATES = re.compile("[\ud800-\udfff]")
"""Halves of characters, which JSON can name and no file in UTF-8 can hold."""


class InputRow(NamedTuple):
    """One row of the input."""

    id: str
    """The row's own, or FILE:LINE."""
    fields: tuple[str | None, ...]
    """The texts of the input in the order of FIELDS; None for what is no text."""
    kept: tuple[str | None, ...]
    """The columns of `Job.keep`."""
    input: Any
    """What `Predictor` takes; None beside an error."""
    error: str | None
    """What is wrong with the row."""

    @property
    def characters(self) -> int:
        return sum(len(text) for text in (*self.fields, *self.kept) if text)


def columns_of(job: Job, tells: bool = False) -> Columns:
    """Return what finds the columns of a job; raise ColumnError where `--columns` names a field that is none."""
    task = "classify" if job.route == "zero-shot" else job.route
    extra = {"id": ("id",)} | {name: () for name in job.keep}
    return Columns(task, job.columns, labelled=False, extra=extra, tells=tells)


def input_rows(job: Job, file: Path) -> Iterator[InputRow]:
    """Yield every row of a file in order; raise DataError where the rest cannot be read."""
    name = job.name(file)
    for number, row in enumerate(unlabelled_rows(file, columns_of(job)), start=1):
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
    """The first line of a row; 0 where lines do not tell rows."""
    return row.line if isinstance(row, Line) else row.number if isinstance(row, RowError) else 0


def _input_row(job: Job, line: Line, place: str) -> InputRow:
    fields, given = _given(job.route, line)
    size = sum(map(len, fields))
    if size > MAX_CHARACTERS:
        line.fail(f"the input has {size:,} characters, expected at most {MAX_CHARACTERS:,}; divide it")
    kept = tuple(as_text(line.record.get(key)) for key in job.keep)
    return InputRow(own_id(line.record) or place, fields, kept, given, None)


def _given(route: RouteName, line: Line) -> tuple[tuple[str, ...], Any]:
    """Return the texts of an input, and the input as the head takes it."""
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
    """Whether a record has words; where it has a text too, as Prodigy writes both, words are strings."""
    words = line.record.get("tokens")
    return "text" not in line.record or (isinstance(words, list) and all(isinstance(word, str) for word in words))


def _words(line: Line) -> Iterator[tuple[int, Any]]:
    words = line.value("tokens" if "tokens" in line.record else "text")
    if not isinstance(words, list) or not words:
        line.fail(f'"tokens" is {str(words)[:40]!r}, expected a list of words; correct the row')
    return enumerate(words)


# ---- what is carried over --------------------------------------------------------------------------------------------


def own_id(record: dict[str, Any]) -> str:
    """Return the id of a record as text; "" where it has none."""
    found = record.get("id")
    is_missing = found is None or found != found  # NaN stands for a missing number in tables of pandas
    return "" if is_missing or isinstance(found, bool | list | dict) else (as_text(found) or "")


def as_text(value: Any) -> str | None:
    """Return a value as it stands in a cell: a text itself, and JSON of a number, list or object."""
    if value is None or isinstance(value, str):
        found = value
    elif isinstance(value, bool | int | float | list | dict):
        found = json.dumps(value, ensure_ascii=False, default=str)
    else:
        found = str(value)
    return SURROGATES.sub("\ufffd", found) if found else found
