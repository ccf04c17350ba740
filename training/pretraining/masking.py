"""Masked tokens (Devlin et al., 2018, §3.1): 15 % of the tokens; 80 % of these [MASK], 10 % random, 10 % kept."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

MASK_SHARE, RANDOM_SHARE = 0.8, 0.1


class Masked(NamedTuple):
    """A masked row: `ids` [S], the selected `columns` [n], and their original ids, the `labels` [n]."""

    ids: Ids
    columns: Ids
    labels: Ids


class Vocabulary(NamedTuple):
    """The parts of a tokenizer that masking needs."""

    mask_id: int
    special_ids: Ids
    ordinary_ids: Ids
    """Random tokens are drawn from these: all except special ones (create_pretraining_data.py draws [PAD] too)."""
    continues: NDArray[np.bool_]
    """[V], whether a token continues a word ("##")."""


def mask_tokens(
    ids: Ids, vocabulary: Vocabulary, rate: float, rng: np.random.Generator, whole_words: bool = False
) -> Masked:
    """Select max(1, round(rate · length)) tokens; special ones add to the length but are never chosen.

    As in create_pretraining_data.py:369.
    `ids` [S] have special tokens and no padding; at least one token must be ordinary. With `whole_words` a word is
    selected with all its pieces or not at all. A word that would exceed the count is skipped (:377), so fewer tokens
    may be chosen.
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
    """Return at most `count` columns of randomly drawn words; at least one, so that a row has a label."""
    starts = np.flatnonzero(~continues | (np.diff(candidates, prepend=-1) > 1))
    words = np.split(candidates, starts[starts > 0])
    chosen: list[Ids] = []
    left = count
    for number in rng.permutation(len(words)):
        if len(words[number]) <= left:
            chosen.append(words[number])
            left -= len(words[number])
    return np.sort(np.concatenate(chosen)) if chosen else min(words, key=len)
