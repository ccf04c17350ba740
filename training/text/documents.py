"""Documents for pretraining, one at a time, whatever file they come in: a corpus may be larger than memory.

.jsonl .ndjson .json .csv .tsv .parquet   a text per record, in the column "text" or one that is chosen
.txt                                      documents with a blank line between them, or JSON lines

All but Parquet also as .xz .gz .zst .bz2. Blank lines mean nothing elsewhere. An empty text is counted and left out.
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
"""Characters that are searched for sentences at a time; the search takes longer than in proportion."""


@dataclass(frozen=True)
class Reading:
    """How documents are found in files."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """{"text": name} of the key of JSON lines, or column of a table, that holds the text; usual names are known."""
    one_per_line: bool = False
    """Of .txt: whether each line is a document; otherwise blank lines divide them."""
    limit: int | None = None
    """Documents of each file; by default all."""
    skip_broken: int = 0
    """Broken rows that are skipped, of all files together; the next one is an error."""


class Documents:
    """The documents of some files, and what was left out of them."""

    def __init__(self, files: Iterable[Path], reading: Reading = Reading(), sources: Sources | None = None) -> None:
        """`sources` tells a broken row from one that is half written because its file is still growing."""
        self.files = list(files)
        self.reading = reading
        self.sources = sources
        self.broken = BrokenRows(reading.skip_broken)
        self.notes = Notes()

    def __iter__(self) -> Iterator[Document]:
        """Raise DataError for a row that is broken, once `skip_broken` rows were."""
        for path in self.files:
            try:
                yield from islice(self.of(path), self.reading.limit)
            except DataError:
                if self.sources:
                    self.sources.check()
                raise

    def of(self, path: Path) -> Iterator[Document]:
        """Yield the documents of one file, without a limit."""
        columns = Columns("fill-mask", self.reading.columns, labelled=False)
        rows = rows_of(path, columns, self.notes, one_per_line=self.reading.one_per_line)
        for text in self.broken.parsed(rows, text_of):
            if any(map(visible, text)):
                yield Document(text)
            else:
                self.notes["empty texts that are left out"] += 1

    def tell(self) -> None:
        """Say on standard error what was changed or left out."""
        self.broken.tell()
        self.notes.tell(str(*self.files) if len(self.files) == 1 else f"{len(self.files)} files")


def text_of(line: Line) -> str:
    """The text of a record, which may be empty."""
    return line.check_string(line.value("text"), '"text"', empty=True)


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
    while len(line) - start > MAX_LINE:
        end = line.rfind(" ", start, start + MAX_LINE) + 1 or start + MAX_LINE
        yield line[start:end]
        start = end
    yield line[start:]
