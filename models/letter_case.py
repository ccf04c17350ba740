"""Decides from its entries whether a vocabulary is cased, if no file says so.

Lowercased text never matches an entry with a capital. So uncased vocabularies have no such entries, except words that a
user put in place of [unused…]; in a cased vocabulary they are about a quarter. The same holds for accents.
"""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

MIN_SHARE = 0.001
"""A vocabulary counts as cased (or accented) if at least this share of its entries has capitals (or accents)."""


class LetterCase(NamedTuple):
    """How text is normalized before it is tokenized."""

    lowercase: bool
    strip_accents: bool
    reason: str
    """The statistics of the entries, as part of a sentence."""


def letter_case(vocabulary: Iterable[str]) -> LetterCase:
    """Decide from the entries of a vocabulary; those in square brackets are ignored, since they are not text."""
    words = [token.removeprefix("##") for token in vocabulary if not (token.startswith("[") and token.endswith("]"))]
    letters = [word for word in words if word.lower() != word.upper()]
    capitals = sum(word != word.lower() for word in letters)
    lowercase = not _are_enough(capitals, len(letters))
    accents = sum(word != _without_accents(word) for word in words)
    strip_accents = lowercase and not _are_enough(accents, len(words))
    return LetterCase(lowercase, strip_accents, f"{capitals:,} of {len(letters):,} entries with letters have capitals")


def _are_enough(count: int, total: int) -> bool:
    return count > 0 and count >= MIN_SHARE * total


def _without_accents(word: str) -> str:
    """Return a word without accents by BERT's rule, which also decomposes Hangul syllables."""
    return "".join(mark for mark in unicodedata.normalize("NFD", word) if unicodedata.category(mark) != "Mn")
