"""Word boundaries: those of the pre-tokenizer, and in scripts without spaces between words, those of each token.

Japanese kana, Thai and similar scripts write no spaces between words, so the pre-tokenizer cannot find their words.
"""

import re
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.pieces import NO_WORD, Pieces

# Unicode blocks of scripts without spaces between words (Unicode Standard, chapters 13, 16 to 18). Hangul has spaces.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)


def word_numbers(text: str, pieces: Pieces) -> NDArray[np.int64]:
    """Return the word index [pieces] of each piece, from 0; NO_WORD for a piece of only blanks.

    A word also begins next to a letter of an unspaced script, but not between two pieces of the same character.
    """
    if text.isascii() or not UNSPACED.search(text):
        return pieces.words
    visible = np.flatnonzero(pieces.words != NO_WORD)
    begins = changes(pieces.words[visible])
    spans = pieces.offsets[visible].tolist()
    begins[1:] |= np.fromiter((_divides(text, *two) for two in pairwise(spans)), bool)
    numbers = np.full(len(pieces), NO_WORD)
    numbers[visible] = np.cumsum(begins) - 1
    return numbers


def first_pieces(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of the first piece of each word, from the word indices [pieces]."""
    visible = np.flatnonzero(numbers != NO_WORD)
    firsts: NDArray[np.int64] = visible[changes(numbers[visible])]
    return firsts


def changes(numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return whether each number differs from the previous one; True for the first."""
    changed = np.ones(len(numbers), bool)
    changed[1:] = numbers[1:] != numbers[:-1]
    return changed


def after_spaces(text: str, pieces: Pieces) -> NDArray[np.bool_]:
    """Return whether each piece [pieces] is the first one or next to a space.

    These are the words of transformers' TokenClassificationPipeline if the vocabulary does not mark them with "##".
    """
    starts = pieces.offsets[:, 0].tolist()
    return np.array(
        [piece == 0 or start == 0 or " " in text[start - 1 : start + 1] for piece, start in enumerate(starts)]
    )


def _divides(text: str, before: tuple[int, int], after: tuple[int, int]) -> bool:
    """Whether two neighboring spans do not overlap, and a letter of those scripts is at their border."""
    start = after[0]
    if before[0] == before[1] or start < before[1]:
        return False
    return UNSPACED.search(text, max(0, start - 1), start + 1) is not None
