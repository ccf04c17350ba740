"""Whether a vocabulary is cased, by its own entries, for where no file says it.

Text that is lowercased never meets an entry with a capital. Uncased vocabularies have none, except for words that a
user put in the place of [unused…]; of a cased one they are a quarter. The same holds for accents.
"""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

MIN_SHARE = 0.001
"""Share of the entries with capitals (or accents) from which a vocabulary is taken to keep them."""


class LetterCase(NamedTuple):
    """What is done to text before it is cut."""

    lowercase: bool
    strip_accents: bool
    reason: str
    """What the entries are like, for a sentence."""


def letter_case(vocabulary: Iterable[str]) -> LetterCase:
    """Decide by the entries of a vocabulary; those in square brackets are no text."""
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
    """Return what is left of a word by BERT's rule, which takes Hangul apart too."""
    return "".join(mark for mark in unicodedata.normalize("NFD", word) if unicodedata.category(mark) != "Mn")
