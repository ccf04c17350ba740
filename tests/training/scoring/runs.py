"""The command as users run it: a process, and the processes that it starts."""

import os
import sys
from contextlib import suppress
from pathlib import Path

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
COMMAND = [sys.executable, "-c", "from training.scoring.command import main; main()"]


def children(process: int) -> list[int]:
    """Return the processes that a process started, and those that they started."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found
