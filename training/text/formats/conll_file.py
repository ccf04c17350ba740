"""Files of one word per line and a blank line after each sentence: CoNLL-2002/2003, BIO, IOB, and CoNLL-U.

Columns are separated by tabs, or by blanks if a line has no tab. A number before each word is not a column (CoNLL-U,
GermEval). Multiword tokens ("3-4") and empty nodes ("3.1") of CoNLL-U are left out.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, dropwhile, groupby, islice
from pathlib import Path

from training.errors import DataError, RowError
from training.run.json_lines import Line, Row
from training.run.progress import count_of
from training.run.text_lines import UNDECODED, UndecodedLine, text_lines
from training.text.tag_schemes import SPAN_TAG

DOCUMENT = "-DOCSTART-"
"""The only word of a line that starts a document of CoNLL-2003."""
CONLLU_COLUMNS = 10
UPOS = 3
"""Column of the part of speech in CoNLL-U (universaldependencies.org/format.html)."""
NUMBER = re.compile(r"\d+")
RANGE = re.compile(r"\d+[-.]\d+")
MAX_WORDS = 1 << 20
"""Words of a sentence; more mean that blank lines are missing."""


@dataclass(frozen=True, slots=True)
class Word:
    """A line with its columns."""

    number: int
    """Number of the line, counted from 1."""
    cells: list[str]


def conll_rows(path: Path, columns: Mapping[str, str], tagged: bool = True) -> Iterator[Row]:
    """Yield a record {"tokens", "tags"} per sentence; if `tagged` is false, a file may have only words.

    `columns` may give the numbers of both columns, counted from 0. By default the word is in the first column. The tag
    is in the last column, or in CoNLL-U in that of the part of speech. The file is read three times, never as a whole.
    """
    layout = Layout.of(_sentences(path))
    numbered = all(map(_is_numbered, filter(None, map(layout.without_comments, _sentences(path)))))
    width = layout.width
    word = _column(columns, "tokens", 1 if numbered else 0, width)
    tag = _column(columns, "tags", UPOS if numbered and width == CONLLU_COLUMNS else width - 1, width) if tagged else 0
    for sentence in map(layout.without_comments, _sentences(path)):
        words = [one for one in sentence if not (numbered and RANGE.fullmatch(one.cells[0]))]
        if words:
            yield _row(path, words, 0 if tagged and width < 2 else width, word, tag)


def is_tagged(line: str) -> bool:
    """Tell whether a line looks like a word with a span tag, a comment, or the start of a document."""
    cells = _cells(line)
    return (
        line.startswith(("# ", DOCUMENT))
        or len(cells) > 1
        and (cells[-1] == "O" or bool(SPAN_TAG.fullmatch(cells[-1])))
    )


@dataclass(frozen=True)
class Layout:
    """What the lines of a file have in common."""

    width: int
    """The number of columns that most lines have."""
    ends: set[str]
    """The values in the last column of lines that do not start with "#"."""

    @classmethod
    def of(cls, sentences: Iterable[Sequence[Word]]) -> "Layout":
        widths, ends = Counter[int](), set[str]()
        for word in chain.from_iterable(sentences):
            if not word.cells[0].startswith("#"):
                widths[len(word.cells)] += 1
                ends.add(word.cells[-1])
        return cls(max(widths, key=lambda width: (widths[width], width), default=0), ends)

    def without_comments(self, sentence: list[Word]) -> list[Word]:
        """Return a sentence without leading comments: lines that start with "#" and do not end in a known tag."""
        return list(dropwhile(lambda word: self._is_comment(word.cells), sentence))

    def _is_comment(self, cells: Sequence[str]) -> bool:
        is_tagged = len(cells) == self.width and (cells[-1] in self.ends or SPAN_TAG.fullmatch(cells[-1]))
        return cells[0].startswith("#") and not is_tagged


def _row(path: Path, words: list[Word], width: int, word: int, tag: int) -> Row:
    for one in words:
        line = " ".join(one.cells)
        if UNDECODED.search(line):
            message = f"{path}:{one.number}: the line is not UTF-8, expected UTF-8 text; convert it with iconv"
            return RowError(message, words[0].number)
        if len(one.cells) != width:
            found = f"{count_of(len(one.cells), 'column')} ({line[:60]!r})"
            wanted = f"{width} as in most lines" if width else "a word and its tag"
            return RowError(f"{path}:{one.number}: {found}, expected {wanted}; correct the line", words[0].number)
    record = {"tokens": [one.cells[word] for one in words], "tags": [one.cells[tag] for one in words]}
    return Line(path, words[0].number, record)


def _column(columns: Mapping[str, str], field: str, default: int, width: int) -> int:
    given = columns.get(field, str(default))
    if not NUMBER.fullmatch(given) or int(given) >= max(width, 1):
        raise DataError(
            f"--columns {field}={given} is not in this file, expected a number from 0 to {width - 1}; correct it"
        )
    return int(given)


def _sentences(path: Path) -> Iterator[list[Word]]:
    lines = enumerate(map(_kept, text_lines(path)), start=1)
    words = ((None if _is_between(line) else Word(number, _cells(line))) for number, line in lines)
    for blank, group in groupby(words, key=lambda word: word is None):
        if not blank:
            sentence = [word for word in islice(group, MAX_WORDS + 1) if word]
            if len(sentence) > MAX_WORDS:
                found = f"{MAX_WORDS:,} lines without a blank one"
                wanted = "one after each sentence; add them"
                raise DataError(f"{path}:{sentence[0].number}: {found}, expected {wanted}")
            yield sentence


def _kept(line: str | DataError) -> str:
    """Return a line as text, even if it is not UTF-8; raise the error of a line that is too long."""
    if isinstance(line, UndecodedLine):
        return line.line.decode("utf8", "surrogateescape")
    if isinstance(line, DataError):
        raise line
    return line


def _is_between(line: str) -> bool:
    """Tell whether a line separates sentences: it is blank, or starts a document."""
    return not line.strip() or line.split(None, 1)[0] == DOCUMENT


def _cells(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if "\t" in line.strip(" \t"):
        return [cell.strip(" ") for cell in line.rstrip("\t").split("\t")]
    return [cell for cell in line.strip(" \t").split(" ") if cell]  # other blanks, such as U+00A0, belong to words


def _is_numbered(sentence: Sequence[Word]) -> bool:
    """Tell whether the first column counts the words from 1."""
    numbers = [word.cells[0] for word in sentence if not RANGE.fullmatch(word.cells[0])]
    return len(sentence[0].cells) > 2 and numbers == [str(place) for place in range(1, len(numbers) + 1)]
