"""Documents for pretraining from files of any format, one at a time: a corpus may be larger than memory.

.jsonl .ndjson .json .csv .tsv .parquet   a text per record, in the column "text" or one that is chosen
.txt                                      documents with a blank line between them, or JSON lines

All formats except Parquet may be compressed (.xz .gz .zst .bz2). Only in .txt do blank lines have a meaning. An empty
text is counted and left out.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sentencex import segment

from training.errors import DataError
from training.run.json_lines import Line, visible
from training.text.broken_rows import BrokenRows
from training.text.columns import Columns
from training.text.examples import Document
from training.text.languages import rules_of
from training.text.notes import Notes
from training.text.rows import rows_of
from training.text.source_files import Sources

MAX_LINE = 1 << 17
"""Maximum characters that are split into sentences at once; the time grows faster than their number."""


@dataclass(frozen=True)
class Reading:
    """How documents are found in files."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """{"text": name}: the key of JSON lines or the column of a table with the text; usual names are known."""
    one_per_line: bool = False
    """Whether each line of .txt is a document; otherwise blank lines divide documents."""
    limit: int | None = None
    """Maximum documents per file; by default all."""
    skip_broken: int = 0
    """Maximum broken rows of all files that are skipped; one more is an error."""


class Documents:
    """The documents of some files, and counts of what was left out."""

    def __init__(self, files: Iterable[Path], reading: Reading = Reading(), sources: Sources | None = None) -> None:
        """`sources` distinguishes a broken row from a half-written one of a growing file."""
        self.files = list(files)
        self.reading = reading
        self.sources = sources
        self.broken = BrokenRows(reading.skip_broken)
        self.notes = Notes()

    def __iter__(self) -> Iterator[Document]:
        """Yield the documents of all files; raise DataError if more than `skip_broken` rows are broken."""
        for path in self.files:
            try:
                yield from islice(self.of(path), self.reading.limit)
            except DataError:
                if self.sources:
                    self.sources.check()
                raise

    def of(self, path: Path) -> Iterator[Document]:
        """Yield the documents of one file, without a limit."""
        columns = Columns("fill-mask", self.reading.columns, labeled=False)
        rows = rows_of(path, columns, self.notes, one_per_line=self.reading.one_per_line)
        for text in self.broken.parsed(rows, text_of):
            if any(map(visible, text)):
                yield Document(text)
            else:
                self.notes["empty texts that are left out"] += 1

    def tell(self) -> None:
        """Print on standard error what was changed or left out."""
        self.broken.tell()
        self.notes.tell(str(*self.files) if len(self.files) == 1 else f"{len(self.files)} files")


def text_of(line: Line) -> str:
    """Return the text of a record, which may be empty."""
    return line.check_string(line.value("text"), '"text"', empty=True)


# ---- sentences -------------------------------------------------------------------------------------------------------


def sentences(text: str, language: str) -> list[str]:
    """Split a text at the ends of lines and sentences, by the rules of `language` (training/text/languages.py)."""
    rules = rules_of(language)
    parts = (part for line in text.split("\n") for part in bounded(line))
    found = (sentence.strip() for part in parts for sentence in segment(rules, part))
    return [sentence for sentence in found if sentence]


def bounded(line: str) -> Iterator[str]:
    """Yield a line, in parts if it is very long; it is split at a blank if possible."""
    start = 0
    while len(line) - start > MAX_LINE:
        end = line.rfind(" ", start, start + MAX_LINE) + 1 or start + MAX_LINE
        yield line[start:end]
        start = end
    yield line[start:]
