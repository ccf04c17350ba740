"""Ctrl-C and SIGTERM: a run saves a checkpoint after the step that it is in; everything else ends where it is."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from training.run.progress import tell

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised where a signal ends a command; `sentence` says what is true for it, "" where nobody knows yet."""

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(sentence)
        self.number = number
        self.sentence = sentence


def status_of(interrupt: KeyboardInterrupt) -> int:
    """The exit status that shells expect: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT)


class Interruption:
    """Whether a run was asked to stop, by the first signal during its steps; the second one ends the process at once.

    torchrun passes on a signal that its processes may have had already from the terminal. Of `processes` of one run
    each therefore takes only the first.
    """

    def __init__(self, processes: int = 1) -> None:
        self.number = 0
        """Of the signal; 0 without one."""
        self._then = signal.SIG_DFL if processes == 1 else signal.SIG_IGN

    @property
    def asked(self) -> bool:
        return self.number > 0

    def watch(self, steps: Iterable[Item]) -> Iterator[Item]:
        """Pass steps through; signals only set `asked` meanwhile."""
        with handled(self._note):
            yield from steps

    def end(self, step: int) -> NoReturn:
        """End a run whose state after `step` steps is saved."""
        number = self.number or signal.SIGTERM  # another process has had the signal
        raise Interrupted(number, f"interrupted at step {step}; checkpoint saved; the same command goes on from there")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in SIGNALS:
            signal.signal(each, self._then)
        if speaks():
            again = "; the same signal again stops at once and saves nothing" if self._then == signal.SIG_DFL else ""
            tell(f"\nstopping after this step{again}")


@contextmanager
def handled(handler: Any, signals: Iterable[int] = SIGNALS) -> Iterator[None]:
    """Signals go to `handler` inside, except those that the process was told to ignore (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can have handlers
        return
    before = {number: signal.getsignal(number) for number in signals}
    before = {number: known for number, known in before.items() if known is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def speaks() -> bool:
    """Whether this process is the one that says what is true for all, where torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """A handler: end as by Ctrl-C, so that what is half written is removed."""
    raise Interrupted(number)


def left_behind(out: Path | None) -> str:
    """What a command finds that is interrupted between its checkpoints, and starts again with the same --out."""
    runs = [out, out.with_name(f"{out.name}-run")] if out else []  # the second is that of `head`
    steps = sorted(step for run in runs for step in run.glob("checkpoints/step-????????"))
    if steps:
        return f"interrupted; the same command goes on from step {int(steps[-1].name[5:])}"
    if any((run / "checkpoints").is_dir() for run in runs):
        return "interrupted before the first checkpoint; the same command begins again"
    if out and (out.with_name(out.name + ".partial") / "progress.jsonl").exists():
        return "interrupted; the same command goes on after the documents that are on disk"
    written = "" if any(run.exists() for run in runs) else "nothing was written, and "
    return f"interrupted; {written}the same command begins again"


def follow_parent() -> None:
    """Make this process end with the one that started it, which alone is interrupted."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)
