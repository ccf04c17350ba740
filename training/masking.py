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


def mask_tokens(ids: Ids, vocabulary: Vocabulary, rate: float, rng: np.random.Generator) -> Masked:
    """Select max(1, round(rate · length)) tokens, specials counted but never chosen (create_pretraining_data.py:369).

    `ids` [S] with specials, unpadded; at least one token must be ordinary.
    """
    candidates = np.flatnonzero(~np.isin(ids, vocabulary.special_ids))
    count = min(len(candidates), max(1, round(rate * len(ids))))
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
