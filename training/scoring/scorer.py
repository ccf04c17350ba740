"""Answers chunks. A part file is whole or absent, and another try replaces it, so a chunk may be scored twice."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from models.predictor import Prediction, Predictor
from training.errors import DataError
from training.scoring.chunks import Chunk, chunks
from training.scoring.input_rows import InputRow
from training.scoring.job import Job
from training.scoring.parts import AnsweredRow, part_files, write_part


class Summary(NamedTuple):
    """The summary of a chunk."""

    part: str
    rows: int
    """Rows that were answered or have an error; 0 for a part that already existed."""
    errors: int
    tokens: int
    """Tokens of the encoder's rows."""
    size: int
    """Bytes of the input; see `Chunk`."""


class Scorer:
    """Scores the chunks of a job; one thread uses it at a time."""

    def __init__(self, job: Job) -> None:
        """Open the bundle; raise BundleError."""
        self.job = job
        self._predictor = Predictor(job.bundle, precision=job.precision, provider=job.provider)

    def __call__(self, chunk: Chunk) -> Summary:
        """Write the part of a chunk."""
        rows = [AnsweredRow(row.id, (*row.fields, *row.kept), None, row.error) for row in chunk.rows]
        tokens = 0
        for place, found in self._predictions(chunk.rows):  # not stored: their logits take more memory than answers
            error = str(found.error).replace(f"inputs[{found.index}]", "inputs") if found.error else None
            rows[place] = rows[place]._replace(answer=found.answer, error=error)
            tokens += sum(len(row.input_ids) for row in found.encoded.rows) if found.encoded else 0
        write_part(self.job, chunk.part, rows)
        return Summary(chunk.part, len(rows), sum(row.error is not None for row in rows), tokens, chunk.size)

    def _predictions(self, rows: Sequence[InputRow]) -> Iterator[tuple[int, Prediction]]:
        """Answer the inputs among some rows, each with its index; given words and texts are asked separately."""
        for words in (False, True):
            places = [index for index, row in enumerate(rows) if not row.error and isinstance(row.input, list) == words]
            inputs = [rows[place].input for place in places]
            for found in self._predictor.predict_each(self.job.head, inputs, self._parameters(words), self.job.route):
                yield places[found.index], found

    def _parameters(self, words: bool) -> Mapping[str, Any]:
        given = self.job.parameters
        return {**given, "is_split_into_words": words} if self.job.route == "tag" else given


def every_chunk(job: Job) -> Iterator[Chunk]:
    """Yield the chunks of all files in order; then raise DataError for files that could not be read to their ends."""
    unreadable: list[str] = []
    for file in job.files:
        try:
            yield from chunks(job, file)
        except DataError as error:
            unreadable.append(str(error))
    refuse_unreadable(unreadable)


def refuse_unreadable(unreadable: Sequence[str]) -> None:
    """Raise DataError for files that could not be read to their ends, each with its error."""
    if unreadable:
        more = f"; and {len(unreadable) - 1:,} more files" if len(unreadable) > 1 else ""
        raise DataError(f"{unreadable[0]}{more}; the rows before are answered")


def written(job: Job) -> set[str]:
    """Return the existing parts."""
    return {file.stem for file in part_files(job.out, job.form)}


def missing(job: Job) -> Iterator[Chunk]:
    """Yield the chunks without a part, as `every_chunk` does."""
    done = written(job)
    return (chunk for chunk in every_chunk(job) if chunk.part not in done)
