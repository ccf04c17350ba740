"""The pieces of one text with their characters, as each kind of tokenizer gives them.

Blanks never belong to a piece here: a piece of blanks alone has an empty span and no word.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers

BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
BLANKS += "\u2028\u2029\u202f\u205f\u3000"
"""White_Space of Unicode, as in the `tokenizers` library; Python's `isspace` adds four control characters."""
NO_WORD = -1

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pieces:
    """The tokens of one text, without special tokens."""

    ids: list[int]
    offsets: list[Span]
    """Start and end of each piece in characters of the original text."""
    words: list[int]
    """For each piece, the number of its word, ascending: as BERT divides words, or as given to `encode_words`.
    NO_WORD for a piece of blanks alone."""

    def __len__(self) -> int:
        return len(self.ids)


def of_words(text: str, encoding: tokenizers.Encoding) -> Pieces:
    """Return what a tokenizer gives that divides words before it cuts them (WordPiece)."""
    words = [
        word for word in encoding.word_ids if word is not None
    ]  # None would be a special token, of which none is made
    return Pieces(encoding.ids, cover_marks(text, encoding.offsets), words)


def of_blanks(text: str, encoding: tokenizers.Encoding) -> Pieces:
    """Return what a tokenizer gives whose pieces may hold the blank before them (byte-level BPE, Unigram)."""
    offsets = trim(text, encoding.offsets)
    return Pieces(encoding.ids, offsets, _words(text, offsets))


def trim(text: str, offsets: Sequence[Span]) -> list[Span]:
    """Take the blanks around pieces away, and add the marks behind them that were composed or removed."""
    return cover_marks(text, [_without_blanks(text, start, end) for start, end in offsets])


def _without_blanks(text: str, start: int, end: int) -> Span:
    part = text[start:end].strip(BLANKS)
    if not part:
        return start, start
    first = text.index(part, start)
    return first, first + len(part)


def is_blank(text: str) -> bool:
    """Whether a text holds nothing but blanks."""
    return not text.strip(BLANKS)


def _words(text: str, offsets: list[Span]) -> list[int]:
    """Number the words as BERT divides them: at blanks, and before and after each punctuation mark."""
    words = []
    word, reached = NO_WORD, 0
    for start, end in offsets:
        if start == end:
            words.append(NO_WORD)
            continue
        word += word == NO_WORD or (start >= reached and _divides(text, start))
        words.append(word)
        reached = end
    return words


def _divides(text: str, start: int) -> bool:
    before, after = text[start - 1], text[start]
    return before in BLANKS or _is_punctuation(before) or _is_punctuation(after)


def _is_punctuation(character: str) -> bool:
    """As in Google's tokenization.py: signs of ASCII such as "$" are punctuation too."""
    if character.isascii():
        return character.isprintable() and not character.isalnum() and character != " "
    return unicodedata.category(character).startswith("P")


def cover_marks(text: str, offsets: list[Span]) -> list[Span]:
    """Extend pieces over combining marks that lowercasing stripped behind them.

    The library ends the piece of "e" + U+0301 at the "e"; a span that ends there would cut the letter in two.
    """
    if text.isascii() or not offsets:
        return offsets
    limits = [*(start for start, _ in offsets[1:]), len(text)]
    return [(start, _end_of_marks(text, end, limit)) for (start, end), limit in zip(offsets, limits, strict=True)]


def _end_of_marks(text: str, end: int, limit: int) -> int:
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end
