"""Token ids of running text, faster than a tokenizer gives them: text repeats its words.

What BERT does to a text (clean, split at blanks and punctuation, WordPiece) does not look across a blank or a mark of
punctuation, so what stands between two of them is cut the same wherever it stands, and need be cut once only.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

from models.tokenizer import Tokenizer

SPLIT = re.compile(r"[!-/:-@\[-`{-~]|[^ !-/:-@\[-`{-~]+").findall
"""ASCII punctuation, a mark each, and what stands between marks and blanks."""
MOST = 150_000
"""Words that are kept, some 30 MB."""


class Words:
    """The ids of the words met so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Return the ids of each text, those of `Tokenizer.encode_ids`."""
        split = [SPLIT(text) for text in texts]
        self._learn(list(set(chain.from_iterable(split)).difference(self._known)), split)
        known = self._known.__getitem__
        return [list(chain.from_iterable(map(known, words))) for words in split]

    def _learn(self, new: Sequence[str], split: Sequence[Sequence[str]]) -> None:
        if len(self._known) + len(new) > MOST:
            self._known.clear()
            new = list(set(chain.from_iterable(split)))
        self._known.update(zip(new, self.tokenizer.encode_ids(new), strict=True))
