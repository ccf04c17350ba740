"""The rows of a file in chunks: the units of work. The same file always gives the same chunks, so a run can go on.

Chunks grow with their number, so that all cores end at about the same time whatever the size of the file, and ten
million rows make some thousand parts.
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
"""Of the first chunks of a file: some 512 short texts. A row with more is a chunk by itself."""
CHUNKS_PER_SIZE = 64
"""Chunks after which both bounds double."""
MAX_DOUBLINGS = 4


class Chunk(NamedTuple):
    """Some rows of one file, which become one file of answers."""

    part: str
    """part-FFFFF-CCCCCC: the numbers of the file and of the chunk in it."""
    rows: tuple[InputRow, ...]
    size: int
    """Bytes of the file that were read for it, for the time left."""


def chunks(job: Job, file: Path) -> Iterator[Chunk]:
    """Yield the chunks of a file, at least one: an empty file has an empty one, so that the output can be read.

    Raise DataError where the rest of the file cannot be read; what was read before has been yielded then.
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
