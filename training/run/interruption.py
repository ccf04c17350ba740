"""Ctrl-C and SIGTERM: a run finishes its step and saves a checkpoint; other commands end at once."""

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from models.manifest import MANIFEST
from training.run.progress import tell

Item = TypeVar("Item")

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised when a signal ends a command; `sentence` says what remains, or is "" if that is not known yet."""

    def __init__(self, number: int, sentence: str = "") -> None:
        super().__init__(sentence)
        self.number = number
        self.sentence = sentence


def status_of(interrupt: KeyboardInterrupt) -> int:
    """Return the exit status that shells expect: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT)


class Interruption:
    """Notes a signal during the steps, so the run can stop; a second signal ends the process at once.

    torchrun forwards signals that its processes may have received from the terminal already. So each of several
    `processes` of a run handles only the first signal.
    """

    def __init__(self, processes: int = 1) -> None:
        self.number = 0
        """Number of the signal; 0 before any."""
        self._then = signal.SIG_DFL if processes == 1 else signal.SIG_IGN

    @property
    def asked(self) -> bool:
        return self.number > 0

    def watch(self, steps: Iterable[Item]) -> Iterator[Item]:
        """Yield the steps; until they end, signals only set `asked`."""
        with handled(self._note):
            yield from steps

    def end(self, step: int) -> NoReturn:
        """End a run after its state at `step` was saved."""
        number = self.number or signal.SIGTERM  # another process received the signal
        raise Interrupted(number, f"interrupted at step {step}; checkpoint saved; the same command continues there")

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in SIGNALS:
            signal.signal(each, self._then)
        if speaks():
            again = "; the same signal again stops at once, without saving" if self._then == signal.SIG_DFL else ""
            tell(f"\nstopping after this step{again}")


@contextmanager
def handled(handler: Any, signals: Iterable[int] = SIGNALS) -> Iterator[None]:
    """Send signals to `handler` inside the block, except those that the process ignores (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can set handlers
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
    """Tell whether this process prints messages, if torchrun started several."""
    return os.environ.get("RANK", "0") == "0"


def raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:
    """Handle a signal like Ctrl-C, so that half-written files are removed."""
    raise Interrupted(number)


def is_complete(out: Path | None) -> bool:
    """Tell whether a command has finished `out`, which appears whole: a file, a corpus or a bundle."""
    return out is not None and (out.is_file() or any((out / name).exists() for name in ("manifest.json", MANIFEST)))


def left_behind(out: Path | None, complete: bool = False) -> str:
    """Return a sentence on what an interruption between two checkpoints leaves, and how the same command continues.

    `complete` tells whether `out` was complete before the command started.
    """
    if is_complete(out) and not complete:
        return f"interrupted; {out} is complete"
    runs = [out, out.with_name(f"{out.name}-run")] if out else []  # `head` uses the second one
    if any((run / "model.safetensors").exists() for run in runs):
        return "interrupted; the training is finished, and the same command continues after it"
    steps = sorted(step for run in runs for step in run.glob("checkpoints/step-????????"))
    if steps:
        return f"interrupted; the same command continues from step {int(steps[-1].name[5:])}"
    if any((run / "checkpoints").is_dir() for run in runs):
        return "interrupted before the first checkpoint; the same command starts again"
    if out and (out.with_name(out.name + ".partial") / "progress.jsonl").exists():
        return "interrupted; the same command continues after the documents that are on disk"
    written = "" if any(run.exists() for run in runs) else "nothing was written, and "
    return f"interrupted; {written}the same command starts again"


def follow_parent() -> None:
    """End this process when its parent ends; only the parent handles signals."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent
    parent.join()
    os._exit(1)
