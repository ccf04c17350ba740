"""Where words end: at what the pre-tokenizer splits, and in scripts without blanks at every token.

Japanese kana, Thai and similar scripts write no blank between words, so a run of them says nothing about words.
"""

import re
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.pieces import NO_WORD, Pieces

# Unicode blocks of scripts that separate words by nothing (Unicode Standard, chapters 13, 16 to 18). Hangul has blanks.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)


def word_numbers(text: str, pieces: Pieces) -> NDArray[np.int64]:
    """Return the word [pieces] of each piece, counted from 0; NO_WORD for blanks alone.

    Beside a letter of an unspaced script a word begins, but not at a second piece of one character.
    """
    words = np.asarray(pieces.words)
    visible = np.flatnonzero(words != NO_WORD)
    begins = np.diff(words[visible], prepend=NO_WORD) != 0
    if not text.isascii() and UNSPACED.search(text):
        spans = [pieces.offsets[piece] for piece in visible.tolist()]
        begins[1:] |= np.fromiter((_divides(text, *two) for two in pairwise(spans)), bool)
    numbers = np.full(len(words), NO_WORD)
    numbers[visible] = np.cumsum(begins) - 1
    return numbers


def first_pieces(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first piece of each word by the words [pieces] of the pieces."""
    visible = np.flatnonzero(numbers != NO_WORD)
    firsts: NDArray[np.int64] = visible[np.diff(numbers[visible], prepend=NO_WORD) != 0]
    return firsts


def after_spaces(text: str, pieces: Pieces) -> NDArray[np.bool_]:
    """Return whether each piece [pieces] stands at a space, or is the first one.

    There begin the words of transformers' TokenClassificationPipeline where a vocabulary does not mark them with "##".
    """
    starts = [start for start, _ in pieces.offsets]
    return np.array(
        [piece == 0 or start == 0 or " " in text[start - 1 : start + 1] for piece, start in enumerate(starts)]
    )


def _divides(text: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether one of two neighbouring spans, that share no character, has a letter of those scripts at their border."""
    start = after[0]
    if before[0] == before[1] or start < before[1]:
        return False
    return UNSPACED.search(text, max(0, start - 1), start + 1) is not None
