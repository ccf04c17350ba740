"""What long work says on standard error: one progress bar, and sentences beside it."""

import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

WIDTH = 80
"""Columns that a bar takes at most."""
STEPS = "{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt} [{remaining}, {rate_fmt}]{postfix}"


def progress(items: Iterable[Item], unit: str, total: int | None = None, initial: int = 0) -> Iterator[Item]:
    """Pass items through and show how many went, how fast, and the time left; `initial` went before."""
    yield from tqdm(items, total=total, initial=initial, unit=f" {unit}", smoothing=0.05, ncols=columns())


class StepBar:
    """The progress bar of a training loop: steps, time left, and as many figures as fit beside them."""

    def __init__(self, total: int, initial: int = 0, disable: bool = False) -> None:
        self._bar: tqdm[NoReturn] = tqdm(
            total=total, initial=initial, unit=" steps", ncols=columns(), bar_format=STEPS, disable=disable
        )

    def update(self) -> None:
        """Count one step."""
        self._bar.update()

    def show(self, figures: Iterable[str]) -> None:
        """Show figures such as "ner 0.31", the most important first: those that fit, the others not."""
        self._bar.set_postfix_str("", refresh=False)
        room = columns() - len(str(self._bar)) - 1
        shown: list[str] = []
        for figure in figures:
            if len(", ".join(["", *shown, figure])) > room:
                break
            shown.append(figure)
        self._bar.set_postfix_str(", ".join(shown))

    def close(self) -> None:
        """End the bar's line."""
        self._bar.close()


def columns() -> int:
    """Return how many columns a bar may take: those of the terminal, at most WIDTH."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def tell(sentence: str) -> None:
    """Say on standard error what a user would want to know before the work is over."""
    sys.stderr.write(sentence + "\n")
