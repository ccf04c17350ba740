"""Redaction: replaces each entity of a text by a numbered placeholder, such as [PER_1].

Equal entities of the same type share a number. A placeholder never occurs in the text itself and contains no inner
brackets, so replacing the placeholders by their entities, in any order, restores the exact text.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from models.task import ANSWER

BRACKETED = re.compile(r"\[[^\[\]]*\]")


@with_config(ANSWER)
class Span(TypedDict):
    """Neighboring words of one entity."""

    entity_group: str
    """The type of the entity."""
    score: float
    """The mean score of its words."""
    word: str
    """The characters of the text from `start` to `end`."""
    start: int
    """Index of its first character in the text."""
    end: int
    """Index after its last character."""
    index: NotRequired[int]
    """For given words only: the index of its first word in the list, from 0."""
    end_index: NotRequired[int]
    """For given words only: the index after its last word."""
    placeholder: NotRequired[str]
    """With `redact` only: the placeholder that replaces the entity."""


@with_config(ANSWER)
class Redaction(TypedDict):
    """A text whose entities are hidden."""

    text: str
    """The text with a placeholder in place of each entity."""
    spans: list[Span]
    """The entities in order, with the placeholder of each; offsets are those of the text as sent."""


def redact(text: str, spans: Iterable[Span], names: "Placeholders | None" = None) -> Redaction:
    """Replace the spans, in order of their start, by placeholders; several texts may share `names`."""
    names = names or Placeholders(text)
    marked: list[Span] = [
        {**span, "placeholder": names.of(span["entity_group"], span["word"])} for span in _merged(text, spans)
    ]
    parts, end = [], 0
    for span in marked:
        parts += [text[end : span["start"]], span["placeholder"]]
        end = span["end"]
    return {"text": "".join([*parts, text[end:]]), "spans": marked}


def _merged(text: str, spans: Iterable[Span]) -> list[Span]:
    """Join overlapping spans into one with the first one's type, as the pieces of a Hangul syllable."""
    merged: list[Span] = []
    for span in spans:
        if merged and span["start"] < merged[-1]["end"]:
            start, end = merged[-1]["start"], max(merged[-1]["end"], span["end"])
            merged[-1] = {**merged[-1], "end": end, "word": text[start:end]}
        else:
            merged.append(span)
    return merged


class Placeholders:
    """Gives each entity of a text its placeholder."""

    def __init__(self, text: str) -> None:
        self._taken = set(BRACKETED.findall(text))
        self._counts: Counter[str] = Counter()
        self._known: dict[tuple[str, str], str] = {}

    def of(self, entity: str, word: str) -> str:
        """Return the placeholder of an entity; the same for the same characters and type."""
        if (entity, word) not in self._known:
            self._known[entity, word] = self._next(re.sub(r"\W", "_", entity))
        return self._known[entity, word]

    def _next(self, name: str) -> str:
        while True:
            self._counts[name] += 1
            placeholder = f"[{name}_{self._counts[name]}]"
            if placeholder not in self._taken:
                return placeholder
