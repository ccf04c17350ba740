"""The service in a process of its own, as a user runs it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.service.serving import until


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def process(
    *flags: str,
    program: tuple[str, ...] = ("-m", "service"),
    python: str | Path = sys.executable,
    environment: Mapping[str, str] = os.environ,
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the service as a user does; yield it with its address."""
    command = [str(python), *program, "--port", "0", *flags]
    environment = {**environment, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert running.stderr
    try:
        first = running.stderr.readline()
        assert "listening on " in first, first + running.stderr.read()
        yield running, first.split("listening on ")[1].strip()
    finally:
        running.kill()
        running.communicate()


@contextmanager
def half_sent(url: str, headers: str = "") -> Iterator[socket.socket]:
    """A request with optional headers that stays in flight until the rest of its body is sent: ' "the cat"}'."""
    address = httpx.URL(url)
    with socket.create_connection((address.host, address.port or 0), timeout=20) as slow:
        until(lambda: ready(url))
        slow.sendall(f'POST /classify HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 21\r\n\r\n{{"inputs":'.encode())
        yield slow


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def all_ready(url: str, workers: int = 2) -> bool:
    """Whether each of a dozen new connections finds a ready worker, and the metrics count them all.

    One answer tells of one worker, and the count may be a second old: neither alone shows that all are ready.
    """
    return all(ready(url) for _ in range(12)) and total(url, "ready") == workers


def children(pid: int) -> list[int]:
    """Workers of a supervisor; multiprocessing's resource tracker is a child too, but ignores the signals of tests."""
    found = []
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
            if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes():
                found.append(int(number))
    return found


def total(url: str, name: str) -> float:
    text = httpx.get(f"{url}/metrics", timeout=20).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"bertheads_{name}"))
