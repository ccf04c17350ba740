"""Held-out documents: which they are, and that none of them stands in the training part as well."""

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from training.text.corpus import Counts
from training.text.corpus_writer import Writer

KEPT = "kept"
"""What the names of the files of those begin with that are held out in the end."""


def is_held_out(number: int, share: float) -> bool:
    """Whether the document of this number, counted from 1, is where `share` of the documents reaches another whole."""
    exact = Fraction(str(share))
    return number * exact // 1 > (number - 1) * exact // 1


def without_repeated(train: Writer, validation: Writer, tokenizer: Tokenizer) -> Writer:
    """Return the validation part, written again without documents that the training part has too, where it has any.

    What was learnt by heart would be measured as understood. The files of `validation` stay: a command that is
    interrupted now goes on from them.
    """
    train.flush(), validation.flush()
    digests = np.concatenate([np.zeros(0, np.uint64), *(block["digest"] for block in validation.blocks("records"))])
    repeated = found_in(digests, (block["digest"] for block in train.blocks("records")))
    if not repeated.any():
        return validation
    kept = Writer(validation.directory, validation.part, tokenizer, Counts(), raw=KEPT)
    for document, twice in zip(validation.documents(), repeated, strict=True):
        if not twice:
            kept.add(document)
    kept.counts = replace(kept.counts, repeated=int(repeated.sum()))
    return kept


def with_duplicates(part: Writer) -> Writer:
    """Count the documents that an earlier one of the part equals, blanks apart; 8 bytes per document in memory."""
    part.flush()
    digests = np.concatenate([np.zeros(0, np.uint64), *(block["digest"] for block in part.blocks("records"))])
    part.counts = replace(part.counts, duplicates=len(digests) - len(np.unique(digests)))
    return part


def found_in(values: NDArray[Any], blocks: Iterable[NDArray[Any]]) -> NDArray[np.bool_]:
    """Whether each of `values` [N] is in one of the blocks, which are looked at one after the other."""
    found = np.zeros(len(values), np.bool_)
    for block in blocks:
        found |= np.isin(values, block)
    return found
