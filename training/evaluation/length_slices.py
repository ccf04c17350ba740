"""Figures by length, for each quarter of the examples, the shortest first."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from training.evaluation.report_figures import Slice

Lengths = NDArray[np.int64]


def slices(lengths: Sequence[int], figure: Callable[[list[int]], float]) -> list[Slice]:
    """Return the `figure` of each quarter; examples of equal length stay together, so some quarters are larger.

    `figure` takes the indices of examples in `lengths`.
    """
    values = np.array(lengths, dtype=np.int64)
    if not len(values):
        return []
    ends = np.unique(np.quantile(values, [0.25, 0.5, 0.75, 1.0], method="inverted_cdf"))
    quarter = np.searchsorted(ends, values)
    return [_slice(values, np.flatnonzero(quarter == number), figure) for number in range(len(ends))]


def _slice(values: Lengths, chosen: Lengths, figure: Callable[[list[int]], float]) -> Slice:
    of_slice = values[chosen]
    return Slice(int(of_slice.min()), int(of_slice.max()), len(chosen), figure(chosen.tolist()))


def lengths_of(texts: Sequence[str], tokenizer: Tokenizer | None) -> list[int]:
    """Return the number of tokens of each text without special ones; without a tokenizer, of words between blanks."""
    return [len(text.split()) for text in texts] if tokenizer is None else list(map(len, tokenizer.encode_ids(texts)))
