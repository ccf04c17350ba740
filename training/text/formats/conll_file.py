"""Files of one word per line and a blank line after each sentence: CoNLL-2002/2003, BIO, IOB, and CoNLL-U.

Columns are divided by tabs, or by blanks where a line has no tab. A number before each word is no column of its own
(CoNLL-U, GermEval): words of several tokens ("3-4") and empty words ("3.1") of CoNLL-U are left out.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from training.errors import DataError
from training.run.json_lines import Line, Row
from training.run.text_lines import checked, text_lines
from training.text.tag_schemes import SPAN_TAG

DOCUMENT = "-DOCSTART-"
"""The only word of the line where a document of CoNLL-2003 begins."""
CONLLU_COLUMNS = 10
UPOS = 3
"""Column of the part of speech in CoNLL-U (universaldependencies.org/format.html)."""
NUMBER = re.compile(r"\d+")
RANGE = re.compile(r"\d+[-.]\d+")


@dataclass(frozen=True, slots=True)
class Word:
    """A line with its columns."""

    number: int
    """Of the line, counted from 1."""
    cells: list[str]


def conll_rows(path: Path, columns: Mapping[str, str]) -> Iterator[Row]:
    """Yield a record {"tokens", "tags"} per sentence.

    `columns` may give the numbers of both, counted from 0. By default the word is in the first column and the tag in
    the last one, in CoNLL-U that of the part of speech.
    """
    found = list(filter(None, _without_comments(list(_sentences(path)))))
    width = _width(found)
    numbered = all(_is_numbered(sentence) for sentence in found)
    word = _column(columns, "tokens", 1 if numbered else 0, width)
    tag = _column(columns, "tags", UPOS if numbered and width == CONLLU_COLUMNS else width - 1, width)
    for sentence in found:
        words = [one for one in sentence if not (numbered and RANGE.fullmatch(one.cells[0]))]
        if words:
            yield _row(path, words, width, word, tag)


def _row(path: Path, words: list[Word], width: int, word: int, tag: int) -> Row:
    for one in words:
        if len(one.cells) != width or width < 2:
            found = f"{len(one.cells)} column{'s' if len(one.cells) > 1 else ''} ({' '.join(one.cells)[:60]!r})"
            wanted = f"{max(width, 2)} as in most lines" if width > 1 else "a word and its tag"
            return DataError(f"{path}:{one.number}: {found}, expected {wanted}; correct the line")
    record = {"tokens": [one.cells[word] for one in words], "tags": [one.cells[tag] for one in words]}
    return Line(path, words[0].number, record)


def _column(columns: Mapping[str, str], field: str, default: int, width: int) -> int:
    given = columns.get(field, str(default))
    if not NUMBER.fullmatch(given) or int(given) >= max(width, 1):
        raise DataError(
            f"--columns {field}={given} is no column of this file, expected a number from 0 to {width - 1}; correct it"
        )
    return int(given)


def _sentences(path: Path) -> Iterator[list[Word]]:
    lines = enumerate(checked(text_lines(path)), start=1)
    words = ((None if _is_between(line) else Word(number, _cells(line))) for number, line in lines)
    for blank, group in groupby(words, key=lambda word: word is None):
        if not blank:
            yield [word for word in group if word]


def _is_between(line: str) -> bool:
    """Whether a line stands between sentences: it is blank, or a document begins."""
    return not line.strip() or line.split(None, 1)[0] == DOCUMENT


def _cells(line: str) -> list[str]:
    line = line.rstrip("\r\n")
    if "\t" in line.strip(" \t"):
        return [cell.strip(" ") for cell in line.rstrip("\t").split("\t")]
    return [cell for cell in line.strip(" \t").split(" ") if cell]  # other blanks, such as U+00A0, are of the words


def _without_comments(sentences: list[list[Word]]) -> Iterator[list[Word]]:
    """Yield sentences without the comments before them: lines that begin with "#" and do not end in a known tag."""
    width = _width(sentences)
    ends = {word.cells[-1] for sentence in sentences for word in sentence if not word.cells[0].startswith("#")}
    for sentence in sentences:
        first = 0
        while first < len(sentence) and _is_comment(sentence[first].cells, width, ends):
            first += 1
        yield sentence[first:]


def _is_comment(cells: Sequence[str], width: int, ends: set[str]) -> bool:
    is_tagged = len(cells) == width and (cells[-1] in ends or SPAN_TAG.fullmatch(cells[-1]))
    return cells[0].startswith("#") and not is_tagged


def _width(sentences: Sequence[Sequence[Word]]) -> int:
    """The number of columns that most lines have."""
    cells = (word.cells for sentence in sentences for word in sentence)
    widths = Counter(len(some) for some in cells if not some[0].startswith("#"))
    return max(widths, key=lambda width: (widths[width], width), default=0)


def _is_numbered(sentence: Sequence[Word]) -> bool:
    """Whether the first column counts the words from 1 on."""
    numbers = [word.cells[0] for word in sentence if not RANGE.fullmatch(word.cells[0])]
    return len(sentence[0].cells) > 2 and numbers == [str(place) for place in range(1, len(numbers) + 1)]
