"""If this breaks, workers that keep ending keep a core busy, or nobody learns why they end."""

import signal
import socket

import pytest

from service import server
from service.settings import Settings
from service.supervisor import END_SECONDS, HEALTHY_SECONDS, MAX_PAUSE, MIN_PAUSE, Supervisor, Worker, reason


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
    """A process that takes no notice of SIGTERM."""

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
