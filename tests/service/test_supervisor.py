"""If this breaks, workers that keep ending keep a core busy, or nobody learns why they end."""

import signal

import pytest

from service import server
from service.supervisor import HEALTHY_SECONDS, MAX_PAUSE, MIN_PAUSE, Worker, reason


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
