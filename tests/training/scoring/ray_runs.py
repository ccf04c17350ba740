"""Ray as users run it: the command in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.scoring.ray_cluster import FOLDER

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": f"{Path(__file__).parents[3]}{os.pathsep}{Path(__file__).with_name('absent')}",
}
"""Without a package that tests need elsewhere, and that takes a second in each of the processes of Ray."""
COMMAND = [sys.executable, "-c", "from training.scoring.command import main; main()"]


@contextmanager
def started(command: list[str], log: Path, **more: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a session of its own, whose processes all end with the block; what it says goes to a file."""
    with log.open("a") as file:
        running = subprocess.Popen(command, stdout=file, stderr=file, env=ENVIRONMENT | more, start_new_session=True)
    try:
        yield running
    finally:
        for process in session(running.pid):
            os.kill(process, signal.SIGKILL)
        running.wait()
        for left in Path("/tmp").glob(f"{FOLDER}*/session_*_{running.pid}"):
            shutil.rmtree(left.parent, ignore_errors=True)


def session(leader: int) -> list[int]:
    """Return the processes of a session, those that wait to be fetched left out."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, *_, number = (place / "stat").read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(number) == leader and state != "Z":
            found.append(int(place.name))
    return found
