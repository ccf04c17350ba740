"""If this breaks, workers that keep ending keep a core busy, or the log does not say why they end."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from service import server
from service.board import Board, socket_path
from service.metric_files import PREFIX, hold
from service.settings import Settings
from service.supervisor import END_SECONDS, HEALTHY_SECONDS, MAX_PAUSE, MIN_PAUSE, Supervisor, Worker, reason
from tests.service.processes import all_ready, children, half_sent, process, ready, total
from tests.service.serving import until


def test_a_worker_that_keeps_ending_waits_longer_until_it_was_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("service.supervisor.time.monotonic", lambda: now)
    worker = Worker(now)
    pauses = []
    for lived in [*[5.0] * 8, HEALTHY_SECONDS, 5.0]:
        worker.start_at = now
        now += lived
        worker.back_off()
        assert worker.start_at == now + worker.pause
        pauses.append(worker.pause)
    assert pauses == [MIN_PAUSE, 2, 4, 8, 16, 32, MAX_PAUSE, MAX_PAUSE, MIN_PAUSE, 2]


class Stopped:
    """A process that ignores SIGTERM."""

    pid = 1
    killed = False

    def terminate(self) -> None: ...

    def kill(self) -> None:
        self.killed = True


def test_a_worker_that_does_not_end_is_killed_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("service.supervisor.time.monotonic", lambda: now)
    with socket.socket() as listener:
        supervisor = Supervisor(Settings(workers=2, drain_delay=3, drain_timeout=10), listener)
    process = Stopped()
    supervisor.workers = [Worker(now, process=process)]  # type: ignore[arg-type]
    supervisor._stop(signal.SIGTERM, None)
    now += 3 + 2 * 10
    supervisor._kill_late()
    assert not process.killed
    now += END_SECONDS
    supervisor._stop(signal.SIGTERM, None)  # a second signal does not give more time
    supervisor._kill_late()
    assert process.killed


def test_an_engine_process_that_gives_no_sign_of_life_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("service.supervisor.time", clock)
    monkeypatch.setattr("service.board.time", clock)
    with socket.socket() as listener:
        supervisor = Supervisor(Settings(provider="cuda", workers=2, lane_timeout=20), listener)
    engine, worker = Stopped(), Stopped()
    supervisor.workers = [Worker(now, process=engine, device=0), Worker(now, process=worker)]  # type: ignore[arg-type]
    supervisor._kill_silent(tmp_path)  # it has no board yet
    board = Board.create(socket_path(tmp_path, 0).with_suffix(".board"))
    now += 19
    supervisor._kill_silent(tmp_path)
    board.beat()
    now += 19
    supervisor._kill_silent(tmp_path)
    assert not engine.killed
    now += 2
    supervisor._kill_silent(tmp_path)
    assert engine.killed and not worker.killed
    assert "engine process of device 0 1 has been silent for 21 s; killing it" in caplog.text


def test_engine_processes_end_after_the_fronts() -> None:
    ended: list[str] = []

    class Running(Stopped):
        def __init__(self, name: str) -> None:
            self.name = name

        def terminate(self) -> None:
            ended.append(self.name)

    with socket.socket() as listener:
        supervisor = Supervisor(Settings(provider="cuda", workers=2), listener)
    engine = Worker(0.0, process=Running("engine"), device=0)  # type: ignore[arg-type]
    fronts = [Worker(0.0, process=Running("front")) for _ in range(2)]  # type: ignore[arg-type]
    supervisor.workers = [engine, *fronts]
    supervisor._end_engines()
    supervisor._stop(signal.SIGTERM, None)
    supervisor._end_engines()
    fronts[0].process = None
    supervisor._end_engines()
    assert ended == ["front", "front"]
    fronts[1].process = None
    supervisor._end_engines()
    assert ended == ["front", "front", "engine"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (-signal.SIGKILL, "was killed by SIGKILL (out of memory?)"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGBUS, "was killed by SIGBUS"),
        (1, "could not load"),
        (server.LOST, "lost a lane"),
        (3, "ended with status 3"),
    ],
)
def test_the_log_says_why_a_worker_ended(status: int, says: str) -> None:
    assert reason(status) == says


# ---- real workers ----

Running = tuple["subprocess.Popen[str]", str]
"""A supervisor and its address."""
FLAGS = ("--lanes", "1", "--workers", "2", "--drain-timeout", "20")


@pytest.fixture(scope="module")
def moving(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that a test may move away."""
    return Path(shutil.copytree(bundle, tmp_path_factory.mktemp("moving") / "bundle"))


@pytest.fixture(scope="module")
def workers(moving: Path) -> Iterator[Running]:
    """Two workers, which one test leaves ready and the next one ends."""
    with process("--bundle", str(moving), *FLAGS) as (running, url):
        until(lambda: all_ready(url) and total(url, "lanes_alive") == 2)
        yield running, url


def classify(url: str) -> None:
    assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}, timeout=60).status_code == 200


@pytest.mark.slow
def test_workers_share_a_port_add_up_their_figures_and_are_replaced(workers: Running, moving: Path) -> None:
    running, url = workers
    first = children(running.pid)
    assert len(first) == 2
    for _ in range(30):
        classify(url)
    until(lambda: total(url, 'requests_total{head="sentiment"') == 30)
    os.kill(first[0], signal.SIGKILL)
    until(lambda: first[0] not in children(running.pid))
    asked = 30
    while total(url, "worker_restarts") == 0 or total(url, "ready") == 1:  # no request meets a worker that still loads
        assert httpx.get(f"{url}/health/ready").status_code == 200
        classify(url)
        asked += 1
        time.sleep(0.01)
    assert set(children(running.pid)) != set(first)
    until(lambda: total(url, 'requests_total{head="sentiment"') == asked)

    # A worker dies while the bundle is replaced: the other one goes on, and the dead one comes back with the bundle.
    away = moving.rename(moving.with_name("away"))
    one, other = children(running.pid)
    os.kill(one, signal.SIGKILL)
    until(lambda: one not in children(running.pid))
    started: set[int] = set()
    while not started or started & set(children(running.pid)):  # until one that finds no bundle has ended
        classify(url)
        started = started or set(children(running.pid)) - {other}
        time.sleep(0.01)
    assert running.poll() is None
    away.rename(moving)
    until(lambda: total(url, "ready") == 2 and total(url, "worker_restarts") >= 2)
    assert httpx.get(f"{url}/health/ready").json() == {"status": "ready", "workers": {"ready": 2, "of": 2}}
    (directory,) = metric_directories(running.pid)
    assert len(list(directory.iterdir())) == 2 * 4 + 3  # of two workers, of all dead ones, and the lock


def test_a_signal_while_a_worker_is_replaced_ends_the_service(workers: Running) -> None:
    running, _ = workers
    (directory,) = metric_directories(running.pid)
    first = children(running.pid)
    os.kill(first[0], signal.SIGKILL)
    until(lambda: first[0] not in children(running.pid))
    running.terminate()  # in the pause before another is started
    assert running.wait(30) == 0
    assert not directory.exists()


def metric_directories(pid: int) -> set[Path]:
    """Return what a supervisor holds."""
    held = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    return {Path(path) for path in held if PREFIX in path}


@pytest.fixture(scope="module")
def left(bundle: Path) -> Path:
    """The metric directory of a supervisor that was killed."""
    with process("--bundle", str(bundle), *FLAGS) as (killed, url):
        until(lambda: ready(url))
        (left,) = metric_directories(killed.pid)
        workers = children(killed.pid)
        held = hold(left)  # or any other service that starts meanwhile removes it
        killed.kill()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert left.exists()
    os.close(held)
    return left


@pytest.fixture(scope="module")
def successor(bundle: Path, left: Path) -> Iterator[Running]:
    """The service that starts after the one that was killed."""
    with process("--bundle", str(bundle), *FLAGS) as (running, url):
        until(lambda: ready(url))
        yield running, url


def test_what_a_killed_supervisor_left_is_removed_by_the_next(left: Path, successor: Running) -> None:
    assert not left.exists()


def test_while_workers_drain_the_port_refuses(successor: Running) -> None:
    """Otherwise the kernel would still accept connections that nobody answers."""
    running, url = successor
    address = httpx.URL(url)
    with half_sent(url) as slow:
        until(lambda: total(url, "requests_in_flight") > 1)  # one is the request for the metrics
        running.terminate()
        until(lambda: refused(address.host, address.port or 0))
        assert running.poll() is None
        slow.sendall(b' "the cat"}')
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert running.wait(30) == 0


def refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_workers_that_cannot_load_end_the_service(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--workers", "2", "--bundle", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1 and "nowhere is not a directory" in result.stderr and "Traceback" not in result.stderr
