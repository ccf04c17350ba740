"""The output of long work on standard error: one progress bar, and messages above it."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn, TextIO, TypeVar, cast

from tqdm import tqdm

Item = TypeVar("Item")

WIDTH = 80
"""Maximum columns of a bar."""
LOG_SECONDS = 30.0
"""Seconds between two updates of a bar if standard error is a file or a pipe."""
STEPS = "{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{remaining}, {rate_fmt}]{postfix}"


def progress(items: Iterable[Item], unit: str, total: int | None = None, initial: int = 0) -> Iterator[Item]:
    """Yield the items, and show their count, their rate and the time left; `initial` were done before."""
    yield from tqdm(
        items,
        total=total,
        initial=initial,
        unit=f" {unit}",
        smoothing=0.05,
        ncols=columns(),
        mininterval=interval(),
        file=bar_file(),
    )


class StepBar:
    """The progress bar of a training loop: steps, time left, and as many figures as fit."""

    def __init__(self, total: int, initial: int = 0, disable: bool = False) -> None:
        self._bar: tqdm[NoReturn] = tqdm(
            total=total,
            initial=initial,
            unit=" steps",
            ncols=columns(),
            bar_format=STEPS,
            disable=disable,
            mininterval=interval(),
            file=bar_file(),
        )

    def update(self) -> None:
        """Count one step."""
        self._bar.update()

    def show(self, figures: Iterable[str]) -> None:
        """Show figures such as "ner 0.31", the most important first, as far as they fit."""
        self._bar.set_postfix_str("", refresh=False)
        room = columns() - len(str(self._bar)) - 1
        shown: list[str] = []
        for figure in figures:
            if len(", ".join(["", *shown, figure])) > room:
                break
            shown.append(figure)
        self._bar.set_postfix_str(", ".join(shown), refresh=sys.stderr.isatty())

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def columns() -> int:
    """Return the columns of a bar: those of the terminal, at most WIDTH."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def interval() -> float:
    """Return the minimum seconds between two updates of a bar; a log gets fewer updates than a terminal."""
    return 0.1 if sys.stderr.isatty() else LOG_SECONDS


def bar_file() -> TextIO:
    """Return the file for bars: standard error; if that is not a terminal, each update gets its own line."""
    return sys.stderr if sys.stderr.isatty() else cast(TextIO, _Lines())


class _Lines:
    """Writes each update of a bar as its own line, for files and pipes."""

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: 1 example, 2 examples."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def tell(sentence: str) -> None:
    """Print a sentence to standard error at once, because the user should see it before the work ends."""
    sys.stderr.write(sentence + "\n")
