"""Documents for pretraining, one at a time, whatever file they come in: a corpus may be larger than memory.

.jsonl       {"text", "title", "source"}, a document a line; also .xz, .gz, .zst
.txt         documents with a blank line between them, as google-research/bert has them; also .txt.xz, …
.parquet     a column "text", a document a row

Blank lines mean nothing elsewhere, and an empty text is counted and left out. A broken row is a DataError among the
documents, so that its reader decides whether to skip it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sentencex import segment

from training.errors import DataError
from training.run.json_lines import Line, kind_of, raw_lines, visible
from training.run.text_lines import unpacked_suffix
from training.text.columns import Columns
from training.text.examples import Document
from training.text.languages import rules_of
from training.text.notes import Notes
from training.text.rows import rows_of
from training.text.source_files import TABLES, Sources

ROWS = 256
"""Rows of a Parquet file that are in memory at a time."""
PAGES = 1 << 20
"""Bytes of a Parquet file that are read at a time."""
LONGEST_DOCUMENT = 1 << 26
"""Characters of a .txt between two blank lines: some hundred novels."""
LONGEST_LINE = 1 << 17
"""Characters that are searched for sentences at a time; the search takes longer than in proportion."""
MAX_LISTED = 10
"""Broken rows that are listed; the rest are counted."""

Row = Document | DataError
"""A document, or what is wrong with it."""


@dataclass(frozen=True)
class Reading:
    """How documents are found in files."""

    column: str = "text"
    """Key of JSON lines, or column of a table, that holds the text."""
    one_per_line: bool = False
    """Of .txt: whether each line is a document; otherwise blank lines divide them."""
    limit: int | None = None
    """Documents of each file; by default all."""
    skip_broken: int = 0
    """Broken rows that are skipped, of all files together; the next one is an error."""


class Documents:
    """The documents of some files, and what was left out of them."""

    def __init__(self, files: Iterable[Path], reading: Reading, sources: Sources | None = None) -> None:
        """`sources` tells a broken row from one that is half written because its file is still growing."""
        self.files = list(files)
        self.reading = reading
        self.sources = sources
        self.broken: list[DataError] = []
        self.empty = 0

    def __iter__(self) -> Iterator[Document]:
        """Raise DataError for a row that is broken, once `skip_broken` rows were."""
        for path in self.files:
            try:
                yield from islice(self._whole(document_rows(path, self.reading)), self.reading.limit)
            except DataError:
                if self.sources:
                    self.sources.check()
                raise

    def _whole(self, rows: Iterable[Row]) -> Iterator[Document]:
        for row in rows:
            if isinstance(row, DataError):
                self._skip(row)
            elif any(map(visible, row.text)):
                yield row
            else:
                self.empty += 1

    def _skip(self, error: DataError) -> None:
        most = self.reading.skip_broken
        if len(self.broken) == most:
            more = f"after {most:,} others that were skipped; raise" if most else "or skip up to N such rows with"
            raise DataError(f"{error}, {more} --skip-broken" + ("" if most else " N"))
        self.broken.append(error)

    def remarks(self) -> list[str]:
        """Say in sentences what was left out."""
        said = [f"skipped: {error}" for error in self.broken[:MAX_LISTED]]
        if len(self.broken) > MAX_LISTED:
            said.append(f"skipped: {len(self.broken) - MAX_LISTED:,} broken rows more")
        return said + ([f"{self.empty:,} texts were empty and are left out"] if self.empty else [])


def iter_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file; raise DataError for one that is broken, naming its place."""
    for row in document_rows(path, Reading()):
        if isinstance(row, DataError):
            raise row
        if any(map(visible, row.text)):
            yield row


def document_rows(path: Path, reading: Reading) -> Iterator[Row]:
    """Yield the documents of a file, those of empty text too; raise DataError for a file that cannot be read."""
    if path.suffix == ".parquet":
        return parquet_documents(path, reading.column)
    if unpacked_suffix(path) in TABLES:
        return table_documents(path, reading.column)
    if ".txt" in path.suffixes[-2:]:
        return lines_as_documents(path) if reading.one_per_line else text_documents(path)
    return json_documents(path, reading.column)


def table_documents(path: Path, column: str) -> Iterator[Row]:
    columns = Columns("fill-mask", {} if column == Reading.column else {"text": column})
    for row in rows_of(path, columns, Notes()):
        try:
            yield row if isinstance(row, DataError) else document_of(row, Reading.column)
        except DataError as error:
            yield error


# ---- JSON lines ------------------------------------------------------------------------------------------------------


def json_documents(path: Path, column: str) -> Iterator[Row]:
    for number, raw in enumerate(raw_lines(path), start=1):
        if raw.strip():
            try:
                yield document_of(json_line(path, number, raw), column)
            except DataError as error:
                yield error


def json_line(path: Path, number: int, raw: bytes) -> Line:
    try:
        record = json.loads(decoded(path, number, raw))
    except (ValueError, RecursionError) as error:
        found = f"not JSON ({error}): {raw[:30].decode(errors='replace')!r}"
        raise DataError(f"{path}:{number}: {found}, expected an object; correct the line") from None
    if not isinstance(record, dict):
        raise DataError(f"{path}:{number}: {kind_of(record)}, expected a JSON object; correct the line")
    return Line(path, number, record)


def document_of(line: Line, column: str) -> Document:
    """The document of a record, whose text may be empty."""
    if column not in line.record:
        found = ", ".join(line.record) or "none"
        line.fail(f'has the keys {found}, expected "{column}"; name the text\'s with --column')
    text = line.check_string(line.record[column], f'"{column}"', empty=True)
    return Document(line.optional_string("title"), line.optional_string("source"), text)


def decoded(path: Path, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8"
        raise DataError(f"{path}:{number}: {found}, expected UTF-8 text; convert the file") from None


# ---- text ------------------------------------------------------------------------------------------------------------


def text_lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    """Yield the number of each line, counted from 1, and its text."""
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            yield number, decoded(path, number, raw).rstrip("\r\n")
        except DataError as error:
            yield number, error


def lines_as_documents(path: Path) -> Iterator[Row]:
    for _, line in text_lines(path):
        if isinstance(line, DataError):
            yield line
        elif line.strip():
            yield Document("", path.name, line)


def text_documents(path: Path) -> Iterator[Row]:
    lines: list[str] = []
    size = 0
    for number, line in text_lines(path):
        if isinstance(line, DataError):
            yield line
        elif line.strip():
            lines.append(line)
            size += len(line)
            if size > LONGEST_DOCUMENT:
                found = f"{size:,} characters without a blank line"
                raise DataError(
                    f"{path}:{number}: {found}, expected one after each document; put them in, or pass --one-per-line"
                )
        elif lines:
            yield Document("", path.name, "\n".join(lines))
            lines, size = [], 0
    if lines:
        yield Document("", path.name, "\n".join(lines))


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def parquet_documents(path: Path, column: str) -> Iterator[Row]:
    import pyarrow.parquet  # heavy, and most corpora need none of it

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=PAGES, pre_buffer=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file ({error}), expected one; copy it again") from None
    with file:
        check_column(path, file.schema_arrow, column)
        row = 0
        for batch in file.iter_batches(ROWS, columns=[column]):
            for text in batch.column(column):
                row += 1
                yield parquet_row(path, row, text)


def check_column(path: Path, schema: Any, column: str) -> None:
    """Raise DataError for a table that has no such column of strings."""
    import pyarrow

    if schema.names.count(column) != 1:
        found = ", ".join(schema.names)
        raise DataError(f'{path} has the columns {found}, expected one named "{column}"; name it with --column')
    kind = schema.field(column).type
    held = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
    if not (pyarrow.types.is_string(held) or pyarrow.types.is_large_string(held)):
        raise DataError(f'{path} has a column "{column}" of {kind}, expected one of strings; convert it')


def parquet_row(path: Path, row: int, value: Any) -> Row:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        return DataError(f"{path}: row {row} is not UTF-8 ({error}), expected UTF-8 text; write it again")
    if text is None:
        return DataError(f"{path}: row {row} has null for its text, expected a string; remove the row")
    return Document("", path.name, text)


# ---- sentences -------------------------------------------------------------------------------------------------------


def sentences(text: str, language: str) -> list[str]:
    """Cut a text where lines and sentences end, by the rules of `language` (see training/text/languages.py)."""
    rules = rules_of(language)
    parts = (part for line in text.split("\n") for part in bounded(line))
    found = (sentence.strip() for part in parts for sentence in segment(rules, part))
    return [sentence for sentence in found if sentence]


def bounded(line: str) -> Iterator[str]:
    """A line, in parts where it is very long: cut at a blank where there is one."""
    start = 0
    while len(line) - start > LONGEST_LINE:
        end = line.rfind(" ", start, start + LONGEST_LINE) + 1 or start + LONGEST_LINE
        yield line[start:end]
        start = end
    yield line[start:]
