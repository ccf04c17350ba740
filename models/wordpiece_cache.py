"""Token ids of running text, faster than a tokenizer gives them: text repeats its words.

What BERT does to a text (clean, split at blanks and punctuation, WordPiece) does not look across a blank or a mark of
punctuation, so what stands between two of them is cut the same wherever it stands, and need be cut once only.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

Split = Callable[[str], list[str]]

split_words: Split = re.compile(r"[!-/:-@\[-`{-~]|[^ !-/:-@\[-`{-~]+").findall
"""Into ASCII punctuation, a mark each, and what stands between marks and blanks."""
ENTRY = 8
"""What a word takes beside its characters, in characters."""


class Words:
    """The ids of the words met so far; several threads may ask at once.

    `cut` returns the ids of texts, as `Tokenizer.encode_ids` does, and gives for the parts that `split` makes of a text
    what it gives for the whole. `most` is the size of what is kept, in characters of some 20 bytes, of which each word
    counts ENTRY more than it has.
    """

    def __init__(self, cut: Callable[[Sequence[str]], list[list[int]]], split: Split, most: int) -> None:
        self.most = most
        self._cut = cut
        self._split = split
        self._known: dict[str, list[int]] = {}
        self._size = 0

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, those that `cut` gives."""
        split = [self._split(text) for text in texts]
        known = self._known
        new = set(chain.from_iterable(split)).difference(known)
        if new:
            known = self._learn(known, new, split)
        return [list(chain.from_iterable(map(known.__getitem__, words))) for words in split]

    def _learn(
        self, known: dict[str, list[int]], new: set[str], split: Sequence[Sequence[str]]
    ) -> dict[str, list[int]]:
        added = size(new)
        self._size += added
        if self._size > self.most:  # another dictionary, for other threads still read the one that is full
            new = set(chain.from_iterable(split))
            known = self._known = {}
            self._size = size(new)
        words = list(new)
        known.update(zip(words, self._cut(words), strict=True))
        return known


def size(words: Iterable[str]) -> int:
    """Return what words take in memory, in characters."""
    return sum(len(word) + ENTRY for word in words)
