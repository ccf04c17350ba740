"""Interrupts a run, for the tests of resuming."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from training.run.run_directory import Run


@contextmanager
def stopped_after_saving(at: int | None = None) -> Iterator[None]:
    """Expect what runs inside to be interrupted once it has saved its state, of step `at` or the first."""
    save = Run.save

    def save_and_die(self: Run, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        if at is None or step == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "save", save_and_die)
        yield
