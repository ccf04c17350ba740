"""What long work says on standard error: one progress bar, and sentences beside it."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(items: Iterable[Item], unit: str, total: int | None = None, initial: int = 0) -> Iterator[Item]:
    """Pass items through and show how many went, how fast, and the time left; `initial` went before."""
    yield from tqdm(items, total=total, initial=initial, unit=f" {unit}", smoothing=0.05, dynamic_ncols=True)


def tell(sentence: str) -> None:
    """Say on standard error what a user would want to know before the work is over."""
    sys.stderr.write(sentence + "\n")
