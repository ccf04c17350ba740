"""A pool of processes of which none outlives an error, whatever it waits for."""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from types import TracebackType
from typing import Any

from training.run.interruption import follow_parent


class ProcessPool(ProcessPoolExecutor):
    """Processes that leave signals to their parent; use it as a context manager, and take all results in its block.

    The end of the block kills them: by then, their work is done, or an error has made it worthless.

    If one of them is killed, all futures raise BrokenProcessPool. Then the standard library sends SIGTERM to the others
    and waits for their end. But ours ignore that signal, and one may wait for a lock that the killed process held.
    """

    def __init__(self, count: int, prepare: Callable[..., None], *arguments: Any) -> None:
        """Each of `count` processes calls `prepare` with the arguments before its first task."""
        self._others = set(active_children())
        # spawn: a forked process would inherit the locks of other threads
        super().__init__(count, get_context("spawn"), _start, (prepare, arguments))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in set(active_children()) - self._others:
            process.kill()
        if sys.version_info < (3, 11, 7):  # where sending a task to a dead process blocks the sending thread
            self._call_queue._reader.close()  # type: ignore[attr-defined]
        self.shutdown(cancel_futures=True)


def _start(prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    follow_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    prepare(*arguments)
