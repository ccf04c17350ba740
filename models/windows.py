"""Sliding windows over a sequence that is longer than a row, and the window in which each token has most context.

Unlike in Google's and Hugging Face's code, the last window is moved back until it is full, so all windows have the same
length. Then a token at the end of a text has as much context as any other, and decoding is simple array code.
"""

import numpy as np
from numpy.typing import NDArray

from models.errors import InputError

# About two million characters of English with default settings; fewer if the windows overlap more.
MAX_WINDOWS = 2048


MAX_OVERLAP = 64
"""Maximum default overlap of two windows, in tokens."""


def usual_overlap(room: int) -> int:
    """Return the default overlap of two windows of `room` tokens: a quarter of a window, at most MAX_OVERLAP."""
    return min(room // 4, MAX_OVERLAP)


def slide(length: int, room: int, overlap: int, field: str) -> NDArray[np.int64]:
    """Return the first index of each window of `room` tokens (or the one shorter window) over `length` tokens.

    Neighbors share `overlap` tokens; the last two may share more. Raise InputError for `field` if there are more than
    MAX_WINDOWS windows.
    """
    if length <= room:
        return np.zeros(1, dtype=np.int64)
    step = room - overlap
    count = -(-(length - room) // step) + 1
    if count > MAX_WINDOWS:
        raise InputError(
            field,
            f"has {length} tokens, which makes {count} windows of {room} tokens; at most {MAX_WINDOWS} are allowed, "
            "so shorten it or let the windows overlap less",
        )
    return np.minimum(np.arange(count, dtype=np.int64) * step, length - room)


def owners(starts: NDArray[np.int64], room: int, length: int) -> NDArray[np.int64]:
    """Return for each of `length` tokens the window in which the smaller of its left and right context is largest.

    This is `_check_is_max_context` in Google's run_squad.py. With windows of equal length, it is the window whose
    middle is nearest, or the earlier of two equally near ones, so the result never decreases along the text.
    """
    if len(starts) == 1:
        return np.zeros(length, np.int64)
    cuts = (starts[:-1] + starts[1:] + room - 1) // 2  # the last token that the earlier of two neighbors owns
    return np.searchsorted(cuts, np.arange(length), side="left").astype(np.int64)
