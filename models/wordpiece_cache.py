"""A cache of tokenized words, which makes tokenizing running text faster, because text repeats its words.

BERT's tokenizer (clean, split at blanks and punctuation, WordPiece) never looks across a blank or a punctuation mark.
So a string between two of them is always split the same way, and needs to be tokenized only once.
"""

import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain, pairwise
from typing import Generic, TypeVar

import numpy as np
import tokenizers
from numpy.typing import NDArray

from models.pieces import Pieces, as_array, code_points, cover_marks

Split = Callable[[str], list[str]]
Value = TypeVar("Value")

MARKS = r"!-/:-@\[-`{-~"
"""ASCII punctuation, as part of a character class in a regular expression."""
split_words: Split = re.compile(rf"[{MARKS}]|[^ {MARKS}]+").findall
"""Splits a text into single ASCII punctuation marks, and the strings between marks and spaces."""
BLANK, MARK, OTHER = range(3)
KINDS = np.array([(OTHER, MARK)[bool(re.match(rf"[{MARKS}]", chr(code)))] for code in range(128)], np.uint8)
"""The kind of each ASCII character, as `split_words` distinguishes them."""
KINDS[ord(" ")] = BLANK
ENTRY = 8
"""Fixed cost of a word in the cache, in characters."""
FIELDS = 4
"""Numbers that are stored per piece of a known word: its id, its start and end in characters, and 1 if it begins a word
in BERT's sense."""
PIECE_BYTES = 4 * FIELDS
"""Bytes per piece; the numbers are int32."""


class Memory(Generic[Value]):
    """A cache with a value for each known word; several threads may use it at once.

    `cut` tokenizes words; it returns one value for each. Tokenizing a text must give the same as tokenizing the parts
    from `split`. `most` is the maximum size of the cache, in characters plus ENTRY per word; a character takes about 20
    bytes. A full cache is emptied.
    """

    def __init__(self, cut: Callable[[Sequence[str]], list[Value]], split: Split, most: int) -> None:
        self.most = most
        self._cut = cut
        self._split = split
        self._known: dict[str, Value] = {}
        self._size = 0

    def find(self, texts: Iterable[str]) -> list[list[Value]]:
        """Return the value of each word of each text."""
        split = [self._split(text) for text in texts]
        known = self._known
        new = set(chain.from_iterable(split)).difference(known)
        if new:
            known = self._learn(known, new, split)
        return [list(map(known.__getitem__, words)) for words in split]

    def _learn(self, known: dict[str, Value], new: set[str], split: Sequence[Sequence[str]]) -> dict[str, Value]:
        added = size(new)
        self._size += added
        if self._size > self.most:  # start a new dictionary, because other threads may still read the full one
            new = set(chain.from_iterable(split))
            known = self._known = {}
            self._size = size(new)
        words = list(new)
        known.update(zip(words, self._cut(words), strict=True))
        return known


class Words(Memory[list[int]]):
    """A cache with the token ids of each known word."""

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [list(chain.from_iterable(found)) for found in self.find(texts)]


def size(words: Iterable[str]) -> int:
    """Return the size of words in the cache, in characters."""
    return sum(len(word) + ENTRY for word in words)


def pack(encoding: tokenizers.Encoding, words: Sequence[str]) -> list[bytes]:
    """Return the pieces of each word as int32, FIELDS each; `encoding` is that of all words, joined by spaces."""
    starts = np.array([0, *accumulate(len(word) + 1 for word in words)])
    offsets, numbers = as_array(encoding.offsets), np.array(encoding.word_ids, np.int64)
    firsts = np.searchsorted(offsets[:, 0], starts)
    offsets -= np.repeat(starts[:-1], np.diff(firsts))[:, None]
    packed = np.column_stack([encoding.ids, offsets, numbers != np.append(-1, numbers[:-1])]).astype(np.int32).tobytes()
    return [packed[PIECE_BYTES * first : PIECE_BYTES * last] for first, last in pairwise(firsts.tolist())]


def unpack_ids(known: Iterable[bytes]) -> list[int]:
    """Return the ids of packed words, in order."""
    return array("i", b"".join(known))[::FIELDS].tolist()


def unpack(text: str, known: Sequence[bytes]) -> Pieces:
    """Return the pieces of a text; `known` has its packed words, in order."""
    numbers = np.frombuffer(b"".join(known), np.int32).reshape(-1, FIELDS).astype(np.int64)
    counts = np.fromiter(map(len, known), np.int64, len(known)) // PIECE_BYTES
    offsets = numbers[:, 1:3] + np.repeat(_starts_of_words(text), counts)[:, None]
    return Pieces(numbers[:, 0].tolist(), cover_marks(text, offsets), numbers[:, 3].cumsum() - 1)


def _starts_of_words(text: str) -> NDArray[np.int64]:
    """Return the index of the first character of each part from `split_words`."""
    kinds = KINDS[np.minimum(code_points(text), len(KINDS) - 1)]
    goes_on = np.zeros(len(kinds), bool)
    goes_on[1:] = (kinds[1:] == OTHER) & (kinds[:-1] == OTHER)
    return np.flatnonzero((kinds != BLANK) & ~goes_on)
