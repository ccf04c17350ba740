"""Token ids of running text, faster than a tokenizer gives them: text repeats its words.

What BERT does to a text (clean, split at blanks and punctuation, WordPiece) does not look across a blank or a mark of
punctuation, so what stands between two of them is cut the same wherever it stands, and need be cut once only.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

SPLIT = re.compile(r"[!-/:-@\[-`{-~]|[^ !-/:-@\[-`{-~]+").findall
"""ASCII punctuation, a mark each, and what stands between marks and blanks."""


class Words:
    """The ids of the words met so far; several threads may ask at once.

    `cut` returns the ids of texts, as `Tokenizer.encode_ids` does; `most` characters of words are kept, 30 bytes each.
    """

    def __init__(self, cut: Callable[[Sequence[str]], list[list[int]]], most: int) -> None:
        self.most = most
        self._cut = cut
        self._known: dict[str, list[int]] = {}
        self._characters = 0

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, those that `cut` gives."""
        split = [SPLIT(text) for text in texts]
        known = self._known
        new = set(chain.from_iterable(split)).difference(known)
        if new:
            known = self._learn(known, new, split)
        return [list(chain.from_iterable(map(known.__getitem__, words))) for words in split]

    def _learn(
        self, known: dict[str, list[int]], new: set[str], split: Sequence[Sequence[str]]
    ) -> dict[str, list[int]]:
        self._characters += sum(map(len, new))
        if self._characters > self.most:  # another dictionary, for other threads still read the one that is full
            new = set(chain.from_iterable(split))
            known = self._known = {}
            self._characters = sum(map(len, new))
        words = list(new)
        known.update(zip(words, self._cut(words), strict=True))
        return known
