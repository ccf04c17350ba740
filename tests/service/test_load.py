"""If this breaks, overload, deadlines, departures or a slow client end in a hang or in wasted work, seen over HTTP."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.session import Session
from models.tagging import Tag, TagParameters
from tests.service.serving import Served, serving, until
from tests.service.test_bad_input import problem


class Blocked:
    """A server whose only lane is busy until `release`."""

    def __init__(self, served: Served, threads: ThreadPoolExecutor) -> None:
        self.served = served
        self.threads = threads
        self.release = threading.Event()
        self.batches: list[list[str]] = []

    def post(self, inputs: object, **headers: str) -> Future[httpx.Response]:
        body = {"inputs": inputs}
        return self.threads.submit(httpx.post, f"{self.served.url}/classify", json=body, headers=headers, timeout=60)

    def queued(self, rows: int) -> None:
        until(lambda: self.served.sample("queue_rows") == rows)


@pytest.fixture
def blocked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    with ThreadPoolExecutor(16) as threads, serving(bundle, lanes=1, max_queued_tokens=512, deadline=20) as served:
        blocked = Blocked(served, threads)
        run = Session.run

        def wait(self: Session, items: Any) -> Any:
            blocked.batches.append([name for name, _ in items])
            assert blocked.release.wait(60)
            return run(self, items)

        monkeypatch.setattr(Session, "run", wait)
        first = blocked.post("the cat")
        until(lambda: blocked.batches)
        yield blocked
        blocked.release.set()
        assert first.result().status_code == 200


def test_a_deadline_in_the_queue_is_504_and_nothing_runs(blocked: Blocked) -> None:
    late = blocked.post("the dog", **{"X-Deadline-Ms": "100"}).result()
    assert "passed in queue" in problem(late, 504)["detail"]
    assert blocked.served.sample("dropped_total", reason="deadline") == 1
    assert blocked.served.sample("client_deadlines_total") == 1
    assert blocked.served.sample("queue_rows") == 0
    blocked.release.set()
    assert blocked.post("the dog").result().status_code == 200
    assert len(blocked.batches) == 2


def test_a_request_whose_client_leaves_is_not_computed(blocked: Blocked) -> None:
    host, port = blocked.served.client.base_url.host, blocked.served.client.base_url.port
    body = b'{"inputs": "the dog"}'
    with socket.create_connection((host, port or 0)) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        blocked.queued(1)
    blocked.queued(0)
    until(lambda: blocked.served.sample("requests_total", route="/classify", head="sentiment", status="499") == 1)
    assert blocked.served.sample("dropped_total", reason="client_gone") == 1


def test_a_full_queue_is_429_with_a_time_to_come_back(blocked: Blocked) -> None:
    texts = ["the " * length for length in (60, 59, 58, 57)]  # equal ones would be computed once
    kept = [blocked.post(texts), blocked.post(texts)]
    blocked.queued(8)
    for inputs in (texts[0], texts[:2]):
        refused = blocked.post(inputs).result()
        problem(refused, 429)
        assert int(refused.headers["Retry-After"]) >= 1
    assert blocked.served.sample("rejected_total", reason="queue-full") == 2
    assert blocked.served.client.get("/health/ready").status_code == 200
    blocked.release.set()
    assert [each.result().status_code for each in kept] == [200, 200]


def test_requests_that_wait_at_shutdown_get_503(blocked: Blocked) -> None:
    waiting = blocked.post("the " * 40)
    blocked.queued(1)
    service = blocked.served.service
    threading.Timer(0.2, blocked.release.set).start()
    service.engine._loop.call_soon_threadsafe(service.engine.stop, 5)
    problem(waiting.result(), 503)


def test_a_body_that_does_not_come_is_408(bundle: Path) -> None:
    with serving(bundle, lanes=1, deadline=0.3) as served:
        host, port = served.client.base_url.host, served.client.base_url.port
        with socket.create_connection((host, port or 0), timeout=20) as connection:
            connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_deadline_while_tokenizing_is_504_and_others_are_answered(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    encode = Tag.encode

    def wait(self: Tag, inputs: str, parameters: TagParameters) -> Any:
        assert answered.wait(60)
        return encode(self, inputs, parameters)

    monkeypatch.setattr(Tag, "encode", wait)
    with serving(bundle, lanes=1, deadline=2) as served:
        late = served.post("/tag", "the cat " * 1000)
        assert "tokenize" in problem(late, 504)["detail"]
        assert served.sample("client_deadlines_total") == 0
        assert served.post("/classify", "the cat").status_code == 200
        answered.set()


def test_a_lane_that_died_ends_liveness(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bundle, lanes=1) as served:

        def die(self: Session, items: Any) -> Any:
            raise SystemExit("below Exception")

        monkeypatch.setattr(Session, "run", die)
        problem(served.post("/classify", "the cat"), 503)
        for path in ("/health/live", "/health/ready"):
            assert "lane-0 died" in problem(served.client.get(path), 503)["detail"]
        problem(served.post("/classify", "the cat"), 503)
