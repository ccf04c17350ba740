"""Answers chunks. A part file is whole or absent, and a second try replaces it, so a chunk may be scored twice."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from models.predictor import Predictor
from training.scoring.chunks import Chunk
from training.scoring.input_rows import InputRow
from training.scoring.job import Job
from training.scoring.parts import AnsweredRow, write_part


class Summary(NamedTuple):
    """What became of a chunk."""

    part: str
    rows: int
    """Rows that were answered or have an error; 0 of a part that was there already."""
    errors: int
    tokens: int
    """Tokens of the rows of the encoder."""
    size: int
    """Bytes of the input; see `Chunk`."""


class Scorer:
    """Scores the chunks of a job; one thread uses it at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._predictor = Predictor(job.bundle, precision=job.precision, provider=job.provider)

    def __call__(self, chunk: Chunk) -> Summary:
        """Write the part of a chunk."""
        raise NotImplementedError
