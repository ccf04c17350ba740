"""The rows of a data file as inputs of a head: each is an input or an error, and none is left out."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from models.tasks import RouteName
from training.scoring.job import Job

FIELDS: dict[RouteName, tuple[str, ...]] = {
    "classify": ("text",),
    "pair": ("text_a", "text_b"),
    "fill-mask": ("text",),
    "tag": ("text",),
    "qa": ("question", "context"),
    "zero-shot": ("text",),
    "rerank": ("text_a", "text_b"),
}
"""The fields of an input by route, which are columns of the output. Given words are a text: joined by single blanks."""


class InputRow(NamedTuple):
    """One row of the input."""

    id: str
    """The row's own, or FILE:LINE."""
    fields: tuple[str | None, ...]
    """The texts of the input in the order of FIELDS; None for what is no text."""
    kept: tuple[str | None, ...]
    """The columns of `Job.keep`."""
    input: Any
    """What `Predictor` takes; None beside an error."""
    error: str | None
    """What is wrong with the row."""

    @property
    def characters(self) -> int:
        return sum(len(text) for text in (*self.fields, *self.kept) if text)


def input_rows(job: Job, file: Path) -> Iterator[InputRow]:
    """Yield every row of a file in order; raise DataError where the rest cannot be read."""
    raise NotImplementedError
