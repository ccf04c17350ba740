"""Divides the rows of a file into chunks, the units of work. A file always gives the same chunks, so a run can resume.

Chunks grow with their number. So all cores finish at about the same time for any size of file, and ten million rows
make about a thousand parts.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from training.errors import DataError
from training.scoring.input_rows import InputRow, input_rows
from training.scoring.job import Job
from training.scoring.position import Position

MIN_ROWS = 512
MIN_CHARACTERS = 1 << 17
"""Bounds of the first chunks of a file: about 512 short texts. A larger row is its own chunk."""
CHUNKS_PER_SIZE = 64
"""Chunks after which both bounds double."""
MAX_DOUBLINGS = 4


class Chunk(NamedTuple):
    """Rows of one file that become one file of answers."""

    part: str
    """part-FFFFF-CCCCCC: the numbers of the file and of its chunk."""
    rows: tuple[InputRow, ...]
    size: int
    """Bytes of the file that were read for it, to estimate the time left."""


def chunks(job: Job, file: Path) -> Iterator[Chunk]:
    """Yield the chunks of a file, at least one: an empty file has an empty chunk, so the output is readable.

    Raise DataError if the rest of the file cannot be read, after yielding what was read before.
    """
    position = Position(file)
    for number, rows in enumerate(_divided(input_rows(job, file))):
        yield Chunk(f"part-{job.numbers[file]:05}-{number:06}", rows, position.advance())


def _divided(rows: Iterator[InputRow]) -> Iterator[tuple[InputRow, ...]]:
    number, characters = 0, 0
    held: list[InputRow] = []
    try:
        for row in rows:
            doublings = min(number // CHUNKS_PER_SIZE, MAX_DOUBLINGS)
            characters += row.characters
            if held and (len(held) >= MIN_ROWS << doublings or characters > MIN_CHARACTERS << doublings):
                yield tuple(held)
                number, held, characters = number + 1, [], row.characters
            held.append(row)
    except DataError:
        if held:
            yield tuple(held)
        raise
    if held or not number:
        yield tuple(held)
