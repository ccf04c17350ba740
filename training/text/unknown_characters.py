"""How much of a text its vocabulary does not know, counted in characters: a token [UNK] may hide a whole word."""

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from models.wordpiece_cache import Words

WORDS = 400_000  # size of the words that are remembered; only those of sentences with [UNK] are looked at


class UnknownCharacters:
    """Counts the characters inside [UNK] of sentences that were cut into ids already."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._id = tokenizer.unk_id
        self._words = Words(partial(unknown_in_words, tokenizer), str.split, WORDS)

    def count(self, texts: Sequence[str], cuts: Sequence[Sequence[int]], ids: NDArray[np.uint32]) -> int:
        """`cuts`: the ids of each text; `ids`: those of all of them, where a search takes next to no time."""
        if not (ids == self._id).any():
            return 0
        with_unknown = [text for text, cut in zip(texts, cuts, strict=True) if self._id in cut]
        return sum(chain.from_iterable(self._words.encode(with_unknown)))


def unknown_in_words(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """For each word a list of one: its characters inside [UNK]."""
    return [
        [sum(end - start for i, (start, end) in zip(pieces.ids, spans, strict=True) if i == tokenizer.unk_id)]
        for pieces in tokenizer.encode_batch(words)
        for spans in [pieces.offsets.tolist()]
    ]
