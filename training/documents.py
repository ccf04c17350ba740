"""Documents for pretraining, one at a time, whatever file they come in: a corpus may be larger than memory.

    .jsonl       {"text", "title", "source"}, a document a line; also .xz, .gz, .zst
    .txt         documents with a blank line between them, as google-research/bert has them; also .txt.xz, …
    .parquet     a column "text", a document a row
"""

from collections.abc import Iterator
from pathlib import Path

from sentencex import segment

from training.data import Document, iter_lines, parse_document, raw_lines
from training.errors import DataError

ROWS = 256
"""Rows of a Parquet file that are in memory at a time."""


def iter_documents(path: Path) -> Iterator[Document]:
    """Yield the documents of a file; raise DataError for one that is broken, naming its place."""
    if path.suffix == ".parquet":
        return parquet_documents(path)
    if ".txt" in path.suffixes[-2:]:
        return text_documents(path)
    return (parse_document(line) for line in iter_lines(path))


def text_documents(path: Path) -> Iterator[Document]:
    lines: list[str] = []
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            line = raw.decode("utf8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            found = f"byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8"
            raise DataError(f"{path}:{number}: {found}, expected UTF-8 text; convert the file") from None
        if line.strip():
            lines.append(line)
        elif lines:
            yield Document("", path.name, "\n".join(lines))
            lines = []
    if lines:
        yield Document("", path.name, "\n".join(lines))


def parquet_documents(path: Path) -> Iterator[Document]:
    import pyarrow.parquet  # heavy, and most corpora need none of it

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is no whole Parquet file ({error}), expected one; copy it again") from None
    with file:
        names = file.schema_arrow.names
        if "text" not in names:
            raise DataError(f'{path} has the columns {", ".join(names)}, expected one named "text"; rename it')
        row = 0
        for batch in file.iter_batches(ROWS, columns=["text"]):
            for text in batch.column("text").to_pylist():
                row += 1
                if not isinstance(text, str):
                    found = "null" if text is None else f"a {type(text).__name__}"
                    raise DataError(f"{path}: row {row} has {found} for its text, expected a string; remove the row")
                if text.strip():
                    yield Document("", path.name, text)


def sentences(text: str, language: str) -> list[str]:
    """Cut a text where lines and sentences end, by the rules of `language` (ISO 639-1)."""
    found = (sentence.strip() for line in text.split("\n") for sentence in segment(language, line))
    return [sentence for sentence in found if sentence]
