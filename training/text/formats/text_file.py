"""Plain text: documents separated by blank lines, as in google-research/bert, or one document per line."""

from collections.abc import Iterator
from pathlib import Path

from training.errors import DataError
from training.run.json_lines import Line, Row
from training.run.text_lines import text_lines

MAX_DOCUMENT = 1 << 26
"""Maximum characters between two blank lines."""


def text_rows(path: Path, one_per_line: bool = False) -> Iterator[Row]:
    """Yield a record {"text"} per document; raise DataError for one longer than MAX_DOCUMENT."""
    lines: list[str] = []
    begin, size = 1, 0
    for number, line in enumerate(text_lines(path), start=1):
        if isinstance(line, DataError):
            yield line
            continue
        if line.strip():
            begin = begin if lines else number
            lines.append(line.rstrip("\r\n"))
            size += len(lines[-1])
            if size > MAX_DOCUMENT:
                found = f"{size:,} characters without a blank line"
                raise DataError(
                    f"{path}:{number}: {found}, expected one after each document; add them, or pass --one-per-line"
                )
        if lines and (one_per_line or not line.strip()):
            yield Line(path, begin, {"text": "\n".join(lines)})
            lines, size = [], 0
    if lines:
        yield Line(path, begin, {"text": "\n".join(lines)})


def line_rows(path: Path) -> Iterator[Row]:
    """Yield a record {"text"} per line, also for empty lines: they may be aligned with another file."""
    for number, line in enumerate(text_lines(path), start=1):
        yield line if isinstance(line, DataError) else Line(path, number, {"text": line.rstrip("\r\n")})
