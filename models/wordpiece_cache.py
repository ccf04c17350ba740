"""What a tokenizer makes of running text, faster than it does that itself: text repeats its words.

What BERT does to a text (clean, split at blanks and punctuation, WordPiece) does not look across a blank or a mark of
punctuation, so what stands between two of them is cut the same wherever it stands, and need be cut once only.
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
"""ASCII punctuation, as part of a regular expression's set."""
split_words: Split = re.compile(rf"[{MARKS}]|[^ {MARKS}]+").findall
"""Into ASCII punctuation, a mark each, and what stands between marks and blanks."""
BLANK, MARK, OTHER = range(3)
KINDS = np.array([(OTHER, MARK)[bool(re.match(rf"[{MARKS}]", chr(code)))] for code in range(128)], np.uint8)
"""Of each ASCII character, as `split_words` tells them apart."""
KINDS[ord(" ")] = BLANK
ENTRY = 8
"""What a word takes beside its characters, in characters."""
FIELDS = 4
"""Numbers of a piece of a known word: its id, its first character, the one behind its last, and 1 where it begins a
word as BERT divides them."""
PIECE_BYTES = 4 * FIELDS
"""They are int32."""


class Memory(Generic[Value]):
    """What is known of the words met so far; several threads may ask at once.

    `cut` returns one value for each word: what the tokenizer makes of it. What it makes of a text must be what it makes
    of the parts into which `split` divides that text. `most` is the size of what is kept, in characters of some 20
    bytes, of which each word counts ENTRY more than it has.
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
        if self._size > self.most:  # another dictionary, for other threads still read the one that is full
            new = set(chain.from_iterable(split))
            known = self._known = {}
            self._size = size(new)
        words = list(new)
        known.update(zip(words, self._cut(words), strict=True))
        return known


class Words(Memory[list[int]]):
    """The ids of the words met so far."""

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, those that `cut` gives."""
        return [list(chain.from_iterable(found)) for found in self.find(texts)]


def size(words: Iterable[str]) -> int:
    """Return what words take in memory, in characters."""
    return sum(len(word) + ENTRY for word in words)


def pack(encoding: tokenizers.Encoding, words: Sequence[str]) -> list[bytes]:
    """Return the pieces of each word as int32, FIELDS each, by the encoding of all words with a blank between them."""
    starts = np.array([0, *accumulate(len(word) + 1 for word in words)])
    offsets, numbers = as_array(encoding.offsets), np.array(encoding.word_ids, np.int64)
    firsts = np.searchsorted(offsets[:, 0], starts)
    offsets -= np.repeat(starts[:-1], np.diff(firsts))[:, None]
    packed = np.column_stack([encoding.ids, offsets, numbers != np.append(-1, numbers[:-1])]).astype(np.int32).tobytes()
    return [packed[PIECE_BYTES * first : PIECE_BYTES * last] for first, last in pairwise(firsts.tolist())]


def unpack_ids(known: Iterable[bytes]) -> list[int]:
    """Return the ids of words that were packed, in order."""
    return array("i", b"".join(known))[::FIELDS].tolist()


def unpack(text: str, known: Sequence[bytes]) -> Pieces:
    """Return the pieces of a text, of whose words each is packed."""
    numbers = np.frombuffer(b"".join(known), np.int32).reshape(-1, FIELDS).astype(np.int64)
    counts = np.fromiter(map(len, known), np.int64, len(known)) // PIECE_BYTES
    offsets = numbers[:, 1:3] + np.repeat(_starts_of_words(text), counts)[:, None]
    return Pieces(numbers[:, 0].tolist(), cover_marks(text, offsets), numbers[:, 3].cumsum() - 1)


def _starts_of_words(text: str) -> NDArray[np.int64]:
    """Return the first character of each part that `split_words` makes of a text."""
    kinds = KINDS[np.minimum(code_points(text), len(KINDS) - 1)]
    goes_on = np.zeros(len(kinds), bool)
    goes_on[1:] = (kinds[1:] == OTHER) & (kinds[:-1] == OTHER)
    return np.flatnonzero((kinds != BLANK) & ~goes_on)
