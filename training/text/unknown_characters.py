"""How many characters of a text a vocabulary does not know; one token [UNK] may stand for a whole word."""

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from models.wordpiece_cache import Words

WORDS = 400_000  # size of the cache of words; only sentences with [UNK] are examined


class UnknownCharacters:
    """Counts the characters inside [UNK], in sentences that are already cut into ids."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._id = tokenizer.unk_id
        self._words = Words(partial(unknown_in_words, tokenizer), str.split, WORDS)

    def count(self, texts: Sequence[str], cuts: Sequence[Sequence[int]], ids: NDArray[np.uint32]) -> int:
        """`cuts`: the ids of each text; `ids`: all of them, for a fast search."""
        if not (ids == self._id).any():
            return 0
        with_unknown = [text for text, cut in zip(texts, cuts, strict=True) if self._id in cut]
        return sum(chain.from_iterable(self._words.encode(with_unknown)))


def unknown_in_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Return for each word a list of one number: its characters inside [UNK]."""
    return [
        [sum(end - start for i, (start, end) in zip(pieces.ids, spans, strict=True) if i == tokenizer.unk_id)]
        for pieces in tokenizer.encode_batch(words)
        for spans in [pieces.offsets.tolist()]
    ]
