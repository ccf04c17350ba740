"""Masked tokens (Devlin et al., 2018, §3.1): 15 % of the tokens, of these 80 % [MASK], 10 % random, 10 % kept."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class Masked(NamedTuple):
    """A row after masking: `ids` [S], the `columns` [n] that were selected, and the `labels` [n] that stood there."""

    ids: Ids
    columns: Ids
    labels: Ids


class Vocabulary(NamedTuple):
    """What masking needs of a tokenizer."""

    mask_id: int
    special_ids: Ids
    ordinary_ids: Ids
    """What a random token is drawn from: all but the specials (create_pretraining_data.py draws [PAD] too)."""
    continues: NDArray[np.bool_]
    """[V], whether a token goes on with the word before it ("##")."""


def mask_tokens(
    ids: Ids, vocabulary: Vocabulary, rate: float, rng: np.random.Generator, whole_words: bool = False
) -> Masked:
    """Select max(1, round(rate · length)) tokens, specials counted but never chosen (create_pretraining_data.py:369).

    `ids` [S] with specials, unpadded; at least one token must be ordinary. With `whole_words` a word is selected with
    all its pieces or not at all, and one that would exceed the count is passed over (:377): fewer may be chosen.
    """
    candidates = np.flatnonzero(~np.isin(ids, vocabulary.special_ids))
    count = min(len(candidates), max(1, round(rate * len(ids))))
    if whole_words:
        columns = choose_words(candidates, vocabulary.continues[ids[candidates]], count, rng)
        count = len(columns)
    else:
        columns = np.sort(rng.choice(candidates, count, replace=False))
    labels = ids[columns]
    dice = rng.random(count)
    drawn = rng.choice(vocabulary.ordinary_ids, count)
    replaced = np.where(
        dice < MASK_SHARE, vocabulary.mask_id, np.where(dice < MASK_SHARE + RANDOM_SHARE, drawn, labels)
    )
    masked = ids.copy()
    masked[columns] = replaced
    return Masked(masked, columns, labels)


def choose_words(candidates: Ids, continues: NDArray[np.bool_], count: int, rng: np.random.Generator) -> Ids:
    """Return the columns of words drawn at random, at most `count` of them; never none, so that a row has a label."""
    starts = np.flatnonzero(~continues | (np.diff(candidates, prepend=-1) > 1))
    words = np.split(candidates, starts[starts > 0])
    chosen: list[Ids] = []
    left = count
    for number in rng.permutation(len(words)):
        if len(words[number]) <= left:
            chosen.append(words[number])
            left -= len(words[number])
    return np.sort(np.concatenate(chosen)) if chosen else min(words, key=len)
