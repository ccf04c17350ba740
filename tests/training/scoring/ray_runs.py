"""Ray as its users have it: a small cluster on this machine, and the command as a process."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import free_port
from tests.service.serving import until
from training.scoring.ray_cluster import FOLDER

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(Path(__file__).parents[3]),
    "RAY_AUTH_MODE": "disabled",
}
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


@contextmanager
def cluster(cpus: int = 2) -> Iterator[str]:
    """A cluster of one node; give its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        flags = {"num-cpus": cpus, "port": port, "temp-dir": folder, "object-store-memory": 100_000_000}
        flags |= {"ray-client-server-port": free_port(), "dashboard-agent-listen-port": free_port()}
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        log = Path(folder) / "head.log"
        with started(command + [f"--{name}={value}" for name, value in flags.items()], log) as head:
            until(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None)
            assert head.poll() is None, log.read_text()
            yield f"127.0.0.1:{port}"
