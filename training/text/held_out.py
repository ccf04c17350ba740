"""Chooses held-out documents, and removes those that the training part has too."""

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
"""Prefix of the files of the documents that are finally held out."""


def is_held_out(number: int, share: float) -> bool:
    """Tell whether document `number`, counted from 1, is held out: `share` of the documents are, evenly spread."""
    exact = Fraction(str(share))
    return number * exact // 1 > (number - 1) * exact // 1


def without_repeated(train: Writer, validation: Writer, tokenizer: Tokenizer) -> Writer:
    """Return the validation part without documents that the training part has too; it is rewritten if there are any.

    Otherwise memorized text would make the figures too good. The files of `validation` stay, so an interrupted command
    can continue from them.
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
    """Count the documents that equal an earlier one, except for blanks; takes 8 bytes of memory per document."""
    part.flush()
    digests = np.concatenate([np.zeros(0, np.uint64), *(block["digest"] for block in part.blocks("records"))])
    part.counts = replace(part.counts, duplicates=len(digests) - len(np.unique(digests)))
    return part


def found_in(values: NDArray[Any], blocks: Iterable[NDArray[Any]]) -> NDArray[np.bool_]:
    """Return for each of `values` [N] whether it is in one of the blocks, which are read one by one."""
    found = np.zeros(len(values), np.bool_)
    for block in blocks:
        found |= np.isin(values, block)
    return found
