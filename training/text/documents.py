"""Documents for pretraining, one at a time, whatever file they come in: a corpus may be larger than memory.

.jsonl       {"text", "title", "source"}, a document a line; also .xz, .gz, .zst
.txt         documents with a blank line between them, as google-research/bert has them; also .txt.xz, …
.parquet     a column "text", a document a row
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sentencex import segment

from training.errors import DataError
from training.run.json_lines import iter_lines, raw_lines
from training.text.examples import Document, parse_document

ROWS = 256
"""Rows of a Parquet file that are in memory at a time."""
PAGES = 1 << 20
"""Bytes of a Parquet file that are read at a time."""
LONGEST_DOCUMENT = 1 << 26
"""Characters of a .txt between two blank lines: some hundred novels."""
LONGEST_LINE = 1 << 17
"""Characters that are searched for sentences at a time; the search takes longer than in proportion."""


def iter_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file; raise DataError for one that is broken, naming its place."""
    if path.suffix == ".parquet":
        return parquet_documents(path)
    if ".txt" in path.suffixes[-2:]:
        return text_documents(path)
    return (parse_document(line) for line in iter_lines(path))


def text_documents(path: Path) -> Iterator[Document]:
    lines: list[str] = []
    size = 0
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            line = raw.decode("utf8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            found = f"byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8"
            raise DataError(f"{path}:{number}: {found}, expected UTF-8 text; convert the file") from None
        if line.strip():
            lines.append(line)
            size += len(line)
            if size > LONGEST_DOCUMENT:
                found = f"{size:,} characters without a blank line"
                raise DataError(f"{path}:{number}: {found}, expected one after each document; put them in")
        elif lines:
            yield Document("", path.name, "\n".join(lines))
            lines, size = [], 0
    if lines:
        yield Document("", path.name, "\n".join(lines))


def parquet_documents(path: Path) -> Iterator[Document]:
    import pyarrow.parquet  # heavy, and most corpora need none of it

    try:
        file = pyarrow.parquet.ParquetFile(path, buffer_size=PAGES, pre_buffer=False)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file ({error}), expected one; copy it again") from None
    with file:
        schema = file.schema_arrow
        if schema.names.count("text") != 1:
            raise DataError(f'{path} has the columns {", ".join(schema.names)}, expected one named "text"; rename it')
        kind = schema.field("text").type
        held = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not (pyarrow.types.is_string(held) or pyarrow.types.is_large_string(held)):
            raise DataError(f'{path} has a column "text" of {kind}, expected one of strings; convert it')
        row = 0
        for batch in file.iter_batches(ROWS, columns=["text"]):
            for text in batch.column("text"):
                row += 1
                yield from parquet_row(path, row, text)


def parquet_row(path: Path, row: int, value: Any) -> Iterator[Document]:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: row {row} is not UTF-8 ({error}), expected UTF-8 text; write it anew") from None
    if text is None:
        raise DataError(f"{path}: row {row} has null for its text, expected a string; remove the row")
    if text.strip():
        yield Document("", path.name, text)


def sentences(text: str, language: str) -> list[str]:
    """Cut a text where lines and sentences end, by the rules of `language` (ISO 639-1)."""
    parts = (part for line in text.split("\n") for part in bounded(line))
    found = (sentence.strip() for part in parts for sentence in segment(language, part))
    return [sentence for sentence in found if sentence]


def bounded(line: str) -> Iterator[str]:
    """A line, in parts where it is very long: cut at a blank where there is one."""
    start = 0
    while len(line) - start > LONGEST_LINE:
        end = line.rfind(" ", start, start + LONGEST_LINE) + 1 or start + LONGEST_LINE
        yield line[start:end]
        start = end
    yield line[start:]
