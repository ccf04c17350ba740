"""CSV and TSV files, read by Python's csv, which counts the lines of the file even if cells have line breaks.

The delimiter is the one of , ; tab | that gives the first lines the same number of cells. Quoted cells may contain
delimiters, line breaks, and doubled quotes (RFC 4180). In files with tabs, quotes are often plain characters: such a
file is read in the way that leaves fewer broken rows.
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, dropwhile, islice
from pathlib import Path
from typing import Literal, NamedTuple

from training.errors import DataError, RowError
from training.run.json_lines import Line, Row
from training.run.progress import count_of
from training.run.text_lines import UndecodedLine, text_lines, unpacked_suffix

SAMPLE = 200
"""Lines that decide the delimiter, and whether the first one has names."""
DELIMITERS = ",;\t|"
RETURN = "\udc0d"
"""Stands for a carriage return inside a line; no decoded text contains it."""
MAX_CELL = 1 << 26
"""Maximum characters of a cell."""

Namer = Callable[[Path, list[list[str]]], tuple[list[str], bool]]
"""Takes a path and its first rows; returns the names of the columns, and whether the first row is data."""


Undecoded = dict[int, RowError]
"""The errors of lines that are not UTF-8, by line number."""


class Dialect(NamedTuple):
    delimiter: str
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL


def csv_rows(path: Path, name: Namer, skip_empty: bool = True) -> Iterator[Row]:
    """Yield a record of strings per row; blank lines are skipped, with `skip_empty` also rows of empty cells."""
    undecoded: Undecoded = {}
    lines = _lines(path, undecoded)
    first = list(islice(lines, SAMPLE))
    if first and "\0" in first[0]:
        raise DataError(f"{path}:1: the line holds U+0000, expected text; if it is UTF-16, save it as UTF-8")
    dialect = _dialect(path, first)
    skipped = 1 if first and _declared(first[0]) else 0
    rows = _cells(path, chain(first[skipped:], lines), dialect, skipped, skip_empty, undecoded)
    rows = dropwhile(lambda row: isinstance(row, Cells) and _is_blank(row.cells, True), rows)  # no header yet
    beginning = list(islice(rows, SAMPLE // 2))
    if not beginning:
        return
    if isinstance(beginning[0], DataError):
        raise beginning[0]  # without the first line, columns have no names
    sample = [row.cells for row in beginning if isinstance(row, Cells)]
    names, is_data = name(path, sample)
    header = None if is_data else sample[0]
    for row in chain(beginning, rows):
        if isinstance(row, NotClosed):
            raise row  # it contains the rest of the file, which is more than one row
        if isinstance(row, DataError):
            yield row
        elif row.cells is not header:
            yield _record(path, row, names)


class Cells(NamedTuple):
    """A row, and its first line."""

    number: int
    last: int
    """Its last line."""
    cells: list[str]


class NotClosed(DataError):
    """Raised for a quote that is never closed: its cell would contain the rest of the file, or too many rows."""


def _record(path: Path, row: Cells, names: list[str]) -> Row:
    if len(row.cells) != len(names):
        found = f"{_lines_of(row.number, row.last)}{count_of(len(row.cells), 'cell')} ({row.cells[0][:30]!r}, …)"
        return RowError(
            f"{path}:{row.number}: {found}, expected {len(names)} as in the first line ({', '.join(names)}); quote a "
            "cell that holds the delimiter, or correct the line",
            row.number,
        )
    return Line(path, row.number, dict(zip(names, row.cells, strict=True)))


def _cells(
    path: Path,
    lines: Iterable[str],
    dialect: Dialect,
    skipped: int = 0,
    skip_empty: bool = True,
    undecoded: Undecoded | None = None,
) -> Iterator[Cells | DataError]:
    csv.field_size_limit(MAX_CELL)
    reader = csv.reader(lines, delimiter=dialect.delimiter, quoting=dialect.quoting, strict=True)
    while True:
        begin = reader.line_num + skipped + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield _error(path, begin, reader.line_num + skipped, str(error))
            continue
        last = reader.line_num + skipped
        if undecoded and (broken := [undecoded.pop(line) for line in range(begin, last + 1) if line in undecoded]):
            yield RowError(str(broken[0]), begin)
        elif not _is_blank(cells, skip_empty):
            yield Cells(begin, last, [cell.replace(RETURN, "\r") for cell in cells])


def _is_blank(cells: Sequence[str], skip_empty: bool) -> bool:
    """Tell whether a row is a blank line, or has only empty cells and such rows are skipped."""
    return not any(map(str.strip, cells)) if skip_empty else not cells


def _error(path: Path, begin: int, last: int, reason: str) -> DataError:
    if reason == "unexpected end of data":
        return NotClosed(f"{path}:{begin}: a quote opens here and is never closed, expected a closing quote; add it")
    if reason.startswith("field larger than"):
        found = f"a quote opens here and is not closed within {MAX_CELL:,} characters"
        return NotClosed(f"{path}:{begin}: {found}, expected a closing quote; add it")
    lines = _lines_of(begin, last)
    message = f"{path}:{begin}: {lines}{reason}, expected cells as in RFC 4180; write a quote in a cell twice"
    return RowError(message, begin)


def _lines_of(begin: int, last: int) -> str:
    """Name the lines of a broken row, if it has several."""
    return f"the row of lines {begin} to {last}: " if last > begin else ""


# ---- lines -----------------------------------------------------------------------------------------------------------


def _lines(path: Path, undecoded: Undecoded | None = None) -> Iterator[str]:
    """Yield lines in the form that csv needs; note those that are not UTF-8, with characters in place of bad bytes.

    A carriage return inside a line belongs to a cell (csv and pandas write it without quotes), but would end the row.
    Only in a file without any line feed do carriage returns separate lines.
    """
    for number, line in enumerate(text_lines(path)):
        if isinstance(line, UndecodedLine):
            if undecoded is not None:
                undecoded[number + 1] = line
            line = line.line.decode("utf8", "surrogateescape")
        elif isinstance(line, DataError):
            raise line  # it may open a quote, which would change the meaning of the next lines
        if "\r" not in line[:-2]:
            yield line
        elif number == 0 and not line.endswith("\n"):
            yield from (part + "\n" for part in line.split("\r"))
        else:
            yield line[:-2].replace("\r", RETURN) + line[-2:]


# ---- dialect ---------------------------------------------------------------------------------------------------------


def _declared(line: str) -> str | None:
    """Return the delimiter that Excel names in a first line such as sep=; if there is one."""
    text = line.strip("\r\n ")
    return text[4] if len(text) == 5 and text.startswith("sep=") else None


def _dialect(path: Path, first: Sequence[str]) -> Dialect:
    delimiter = (_declared(first[0]) if first else None) or _delimiter(path, first)
    if delimiter != "\t" or not any(line.startswith('"') or '\t"' in line for line in _lines(path)):
        return Dialect(delimiter)
    quoted, plain = Dialect(delimiter), Dialect(delimiter, csv.QUOTE_NONE)
    return plain if _broken(path, plain) < _broken(path, quoted) else quoted


def _delimiter(path: Path, first: Sequence[str]) -> str:
    """Return the delimiter that gives most of the first rows as many cells as the first row, at least two."""
    preferred = "\t,;|" if unpacked_suffix(path) in (".tsv", ".tab") else DELIMITERS

    def agreement(delimiter: str) -> tuple[float, int]:
        widths = [len(row.cells) if isinstance(row, Cells) else 0 for row in _cells(path, first, Dialect(delimiter))]
        return (widths.count(widths[0]) / len(widths), widths[0]) if widths and widths[0] > 1 else (0.0, 0)

    return max(preferred, key=agreement)


def _broken(path: Path, dialect: Dialect) -> int:
    """Count the rows with an error, or with another number of cells than most."""
    widths: dict[int, int] = {}
    errors = 0
    for row in _cells(path, _lines(path), dialect):
        if isinstance(row, DataError):
            errors += 1
        else:
            widths[len(row.cells)] = widths.get(len(row.cells), 0) + 1
    return errors + sum(widths.values()) - max(widths.values(), default=0)
