"""The pieces of a text with their character offsets, for each kind of tokenizer.

"Blanks" are Unicode white space. The span of a piece never includes the blanks around it. A piece of only blanks has an
empty span, and belongs to no word unless it is the first piece of one.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import tokenizers
from numpy.typing import NDArray

BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
BLANKS += "\u2028\u2029\u202f\u205f\u3000"
"""Unicode's White_Space, as in the `tokenizers` library; Python's `isspace` adds four control characters."""
FIRST_MARK = 0x300
"""The lowest combining mark of Unicode."""
NO_WORD = -1

Span = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """The tokens of one text, without special tokens."""

    ids: list[int]
    offsets: NDArray[np.int64]
    """(T, 2) start and end of each piece in characters of the original text."""
    words: NDArray[np.int64]
    """(T,) the index of each piece's word, ascending; words are divided as in BERT, or given to `encode_words`. NO_WORD
    for a piece of blanks that does not begin a word."""

    @classmethod
    def of(cls, ids: list[int], offsets: Sequence[Span], words: Sequence[int]) -> Self:
        """Build pieces from lists."""
        return cls(ids, as_array(offsets), np.array(words, np.int64))

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        """Whether ids, offsets and words are the same."""
        if not isinstance(other, Pieces):
            return NotImplemented
        same = np.array_equal(self.offsets, other.offsets) and np.array_equal(self.words, other.words)
        return same and self.ids == other.ids

    def behind(self, characters: int) -> "Pieces":
        """Return the same pieces, with offsets shifted by this many characters."""
        return Pieces(self.ids, self.offsets + characters, self.words) if characters else self


def of_words(text: str, encoding: tokenizers.Encoding) -> Pieces:
    """Return the pieces of a tokenizer that first splits text into words (WordPiece)."""
    words = np.array(encoding.word_ids, np.int64)  # word ids are None only for special tokens, and there are none
    return Pieces(encoding.ids, cover_marks(text, as_array(encoding.offsets)), words)


def of_blanks(text: str, encoding: tokenizers.Encoding) -> Pieces:
    """Return the pieces of a tokenizer whose pieces may include the blank before them (byte-level BPE, Unigram)."""
    offsets, numbers = trim(text, encoding.offsets), encoding.word_ids
    for piece in range(len(offsets) - 1):
        if _leads(piece, offsets, numbers):
            offsets[piece] = offsets[piece + 1][0], offsets[piece + 1][0]
    return Pieces.of(encoding.ids, offsets, _words(text, offsets, numbers))


def _leads(piece: int, offsets: Sequence[Span], numbers: Sequence[int | None]) -> bool:
    """Whether a piece is only the blank before a word, which then counts as the first piece of the word."""
    (start, end), (first, last) = offsets[piece : piece + 2]
    return start == end and first < last and numbers[piece] == numbers[piece + 1]


def trim(text: str, offsets: Sequence[Span]) -> list[Span]:
    """Return spans without the blanks around pieces, extended over combining marks after them; see `cover_marks`."""
    spans = [without_blanks(text, start, end) for start, end in offsets]
    return spans if text.isascii() else [(start, end) for start, end in cover_marks(text, as_array(spans)).tolist()]


def without_blanks(text: str, start: int, end: int) -> Span:
    """Return a span without the blanks at its ends; an empty span if there is nothing else."""
    part = text[start:end].strip(BLANKS)
    if not part:
        return start, start
    first = text.index(part, start)
    return first, first + len(part)


def is_blank(text: str) -> bool:
    """Whether a text consists only of blanks, or is empty."""
    return not text.strip(BLANKS)


def _words(text: str, offsets: list[Span], numbers: Sequence[int | None]) -> list[int]:
    """Return the word index of each piece; as in BERT, words end at blanks, and before and after punctuation marks."""
    words = []
    word, reached, is_led = NO_WORD, 0, False
    for piece, (start, end) in enumerate(offsets):
        leads = piece + 1 < len(offsets) and _leads(piece, offsets, numbers)
        is_blank_alone = start == end and not leads
        begins = leads or (not is_led and start >= reached and _divides(text, start)) or word == NO_WORD
        word += begins and not is_blank_alone
        words.append(NO_WORD if is_blank_alone else word)
        is_led, reached = leads, max(reached, end)
    return words


def _divides(text: str, start: int) -> bool:
    before, after = text[start - 1 : start] or " ", text[start : start + 1] or " "
    return before in BLANKS or _is_punctuation(before) or _is_punctuation(after)


def _is_punctuation(character: str) -> bool:
    """As in Google's tokenization.py: ASCII symbols such as "$" are punctuation too."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def cover_marks(text: str, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Extend pieces over the combining marks after them, which were removed with the accents.

    For "e" + U+0301, the library ends the piece after the "e"; a span that ends there would split the letter.
    """
    if text.isascii() or not len(offsets):
        return offsets
    ends, limits = offsets[:, 1].copy(), np.append(offsets[1:, 0], len(text))
    behind = code_points(text)[np.minimum(ends, len(text) - 1)]
    for piece in np.flatnonzero((ends < limits) & (behind >= FIRST_MARK)).tolist():
        ends[piece] = _end_of_marks(text, int(ends[piece]), int(limits[piece]))
    return np.stack([offsets[:, 0], ends], axis=1)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the code point of each character; raises UnicodeEncodeError for a lone surrogate."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def as_array(offsets: Sequence[Span]) -> NDArray[np.int64]:
    """Return spans as an array (n, 2)."""
    return np.array(offsets, np.int64).reshape(-1, 2)


def _end_of_marks(text: str, end: int, limit: int) -> int:
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end
