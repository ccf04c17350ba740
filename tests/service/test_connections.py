"""If this breaks, one client can take the memory or the connections of all, or does not see why it was refused."""

import contextlib
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from service.connections import MIN_CONNECTIONS, connection_limit
from tests.service.processes import process, ready
from tests.service.serving import Served, serving, until
from tests.service.sockets import BODY, HEAD, LENGTH, LIVE, answers, ask, check_problem, chunked, connected, rest

MAX_GROWTH = 32 << 20


@pytest.fixture(scope="module")
def running(bundle: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server in a process of its own, whose memory can be measured."""
    with process("--bundle", str(bundle), "--lanes", "1") as (running, url):
        until(lambda: ready(url))
        yield running, url


@pytest.fixture(scope="module")
def keyed(bundle: Path) -> Iterator[Served]:
    """A server that asks for a key."""
    with serving(bundle, lanes=1, api_key="secret") as served:
        yield served


def memory(pid: int, name: str) -> int:
    """Return VmRSS, or VmHWM, its peak, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) << 10


def connect(url: str) -> socket.socket:
    address = httpx.URL(url)
    return socket.create_connection((address.host, address.port or 0), timeout=20)


def test_pipelined_requests_that_nobody_reads_take_no_memory(running: tuple["subprocess.Popen[str]", str]) -> None:
    server, url = running
    before = memory(server.pid, "VmRSS")
    requests = memoryview((LIVE + b"\r\n") * 5000)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(url)) for _ in range(20)]
        for connection in connections:
            connection.setblocking(False)
        stuck = 0
        while stuck < 5:  # rounds in which no connection takes more
            sent = 0
            for connection in connections:
                with contextlib.suppress(BlockingIOError):
                    sent += connection.send(requests)
            stuck = 0 if sent else stuck + 1
            assert httpx.get(f"{url}/health/live", timeout=20).status_code == 200
        assert memory(server.pid, "VmHWM") - before < MAX_GROWTH


@pytest.mark.parametrize("trailer", [b"X-%06d: " + b"a" * 1000 + b"\r\n", b"a" * 1010], ids=["many", "one"])
def test_endless_trailers_take_no_memory(running: tuple["subprocess.Popen[str]", str], trailer: bytes) -> None:
    server, url = running
    before = memory(server.pid, "VmRSS")
    with connect(url) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for number in range(60_000):
                connection.sendall(trailer.replace(b"%06d", b"%06d" % number))
        assert rest(connection).startswith(b"HTTP/1.1 431 ")
    assert memory(server.pid, "VmHWM") - before < MAX_GROWTH


def test_trailers_are_dropped(keyed: Served) -> None:
    with connected(keyed) as connection:
        connection.sendall(HEAD + chunked(BODY, b"Authorization: Bearer secret\r\n"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        connection.sendall(HEAD + b"Authorization: Bearer secret\r\n" + chunked(BODY, b"Authorization: no\r\n"))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [7, 1 << 20])
def test_pipelined_requests_are_answered_in_order(served: Served, size: int) -> None:
    """`size`: of the packets; every place in a request is a boundary of some."""
    kinds = [LIVE + b"X-Request-Id: %d\r\n\r\n", HEAD + b"X-Request-Id: %d\r\n" + LENGTH + BODY]
    kinds.append(HEAD + b"X-Request-Id: %d\r\n" + chunked(BODY, b"X-Trailer: a\r\n"))
    count = 60 if size == 7 else 1500
    requests = b"".join(kinds[number % 3].replace(b"%d", b"%d" % number) for number in range(count))
    requests += LIVE + b"Connection: close\r\n\r\n"

    def send() -> None:
        for start in range(0, len(requests), size):
            connection.sendall(requests[start : start + size])
            time.sleep(0 if size > 7 else 0.001)

    with connected(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender = threading.Thread(target=send)
        sender.start()
        found = list(answers(connection))
        sender.join()
    assert {status for status, _, _ in found} == {200}
    assert [headers["x-request-id"] for _, headers, _ in found[:-1]] == [str(number) for number in range(count)]


@pytest.mark.parametrize("requests", [HEAD + LENGTH + BODY, (HEAD + LENGTH + BODY) * 3, LIVE + b"\r\n"])
def test_a_client_that_closes_its_sending_side_gets_its_answers(served: Served, requests: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(requests)
        connection.shutdown(socket.SHUT_WR)
        found = list(answers(connection))
    assert [status for status, _, _ in found] == [200] * requests.count(b"Host: x")


def test_a_client_that_sends_half_a_request_and_ends_is_disconnected(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(HEAD + LENGTH + BODY[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b""
    until(lambda: served.sample("requests_in_flight") == 0)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"", 413),
        (b"Content-Type: application/xml\r\n", 415),
        (b"Authorization: Bearer wrong\r\n", 401),
        (b"Transfer-Encoding: zip\r\n", 400),
    ],
)
def test_a_client_that_sends_all_before_it_reads_sees_the_refusal(keyed: Served, headers: bytes, status: int) -> None:
    size = 20 << 20
    key = b"" if b"Authorization" in headers else b"Authorization: Bearer secret\r\n"
    length = b"" if b"Transfer" in headers else b"Content-Length: %d\r\n" % size
    with connected(keyed) as connection:
        connection.sendall(HEAD + key + headers + length + b"\r\n")
        connection.sendall(bytes(size))
        ((code, _, body),) = answers(connection)
    assert code == status and b'"status":%d' % status in body


def test_discarded_input_is_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocol.MAX_DISCARDED", 1 << 20)
    with serving(bundle, lanes=1) as served, connected(served) as connection:
        connection.sendall(b"hello there\r\n\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                connection.sendall(bytes(1 << 20))


def test_a_connection_survives_a_refused_body_whose_rest_is_small(keyed: Served) -> None:
    with connected(keyed) as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
        found = answers(connection)
        assert next(found)[0] == 401
        connection.sendall(bytes(99_999) + LIVE + b"Connection: close\r\n\r\n")
        assert [status for status, _, _ in found] == [200]


def test_a_client_that_was_not_told_to_continue_cannot_mix_up_its_requests(keyed: Served) -> None:
    expecting = HEAD + b"Expect: 100-continue\r\n" + LENGTH
    with connected(keyed) as connection:
        connection.sendall(expecting)
        ((status, headers, _),) = answers(connection)
        assert status == 401 and headers["connection"] == "close"
    with connected(keyed) as connection:
        connection.sendall(expecting.replace(b"Expect", b"Authorization: Bearer secret\r\nExpect"))
        assert connection.recv(1 << 16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"connection: close" not in answer
        connection.sendall(LIVE + b"\r\n")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_above_the_limit_only_health_is_answered(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.connections.RESERVED_CONNECTIONS", 2)
    with serving(bundle, wait=False, lanes=1, max_connections=3) as served, ExitStack() as stack:
        until(lambda: not served.service.obstacles())
        kept = [stack.enter_context(connected(served)) for _ in range(3)]
        assert [ask(each, LIVE + b"\r\n").status_code for each in kept] == [200] * 3
        for path in (b"/health/live", b"/health/ready", b"/v2/health/live", b"/v2/health/ready"):
            with connected(served) as connection:
                answer = ask(connection, b"GET %b?a=b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
                assert answer.status_code == 200 and answer.headers["Connection"] == "close"
        for _ in range(2):
            with connected(served) as connection:
                answer = ask(connection, HEAD + LENGTH + BODY)
                check_problem(answer, 503, "all 3 connections are in use")
                assert answer.headers["Retry-After"] == "1"
        with connected(served) as connection:
            answer = ask(connection, b"GET /v2/models/a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.headers["Content-Type"] == "application/json" and answer.json()["error"].startswith("all 3")
        assert served.sample("refused_connections_total", reason="limit") == 3
        assert served.sample("requests_total", route="other", head="", status="503") == 3
        assert [record.getMessage() for record in caplog.records].count("refused connections") == 1
        time.sleep(0.1)  # until those above have closed
        above = [stack.enter_context(connected(served)) for _ in range(3)]
        assert rest(above[-1]) == b""  # the reserve is taken too
        assert served.sample("refused_connections_total", reason="reserve") == 1
        kept.pop().close()
        for connection in above:
            connection.close()
        time.sleep(0.1)
        with connected(served) as connection:
            assert ask(connection, HEAD + LENGTH + BODY).status_code == 200


def test_an_idle_connection_makes_room_and_a_busy_one_does_not(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.connections.MIN_IDLE_SECONDS", 0.0)
    with serving(bundle, wait=False, lanes=1, max_connections=2) as served, ExitStack() as stack:
        until(lambda: not served.service.obstacles())
        busy, idle = (stack.enter_context(connected(served)) for _ in range(2))
        assert ask(busy, HEAD + LENGTH + BODY).status_code == 200
        busy.sendall(HEAD)
        assert ask(idle, LIVE + b"\r\n").status_code == 200
        with connected(served) as third:
            assert ask(third, HEAD + LENGTH + BODY).status_code == 200
            assert rest(idle) == b""
            assert ask(busy, LENGTH + BODY).status_code == 200


def test_the_limit_follows_that_of_open_files(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = 1000
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert 500 < connection_limit(0) < 1000 and connection_limit(7) == 7
    assert connection_limit(5000) == connection_limit(0) and "ulimit" in caplog.text
    files = 100
    assert connection_limit(0) == MIN_CONNECTIONS
    files = resource.RLIM_INFINITY
    assert connection_limit(0) > 10_000


def test_a_server_without_file_descriptors_recovers(bundle: Path) -> None:
    with process("--bundle", str(bundle), "--lanes", "1") as (running, url):
        until(lambda: ready(url))
        used = len(list(Path(f"/proc/{running.pid}/fd").iterdir()))
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (used + 10, 10_000))
        with ExitStack() as stack:
            for _ in range(40):
                connection = stack.enter_context(connect(url))
                connection.sendall(LIVE + b"\r\n")
            time.sleep(0.5)
            assert running.poll() is None
        until(lambda: ready(url))


def test_unparsed_input_of_all_connections_is_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.connections.MAX_HELD", 100_000)
    with serving(bundle, lanes=1) as served, ExitStack() as stack:
        connections = [stack.enter_context(connected(served)) for _ in range(4)]
        for connection in connections:
            connection.sendall(LIVE + b"X: " + b"a" * 40_000)
        until(lambda: served.sample("refused_connections_total", reason="memory") == 2)
        assert served.client.get("/health/live").status_code == 200
        connections[0].close()
        time.sleep(0.1)
        with connected(served) as connection:
            connection.sendall(LIVE + b"X: " + b"a" * 40_000)
            assert ask(connection, b"\r\n\r\n").status_code == 200


def test_an_endless_body_does_not_delay_shutdown(bundle: Path) -> None:
    flags = ("--bundle", str(bundle), "--lanes", "1", "--drain-timeout", "1", "--deadline", "3000")
    with process(*flags) as (running, url), ExitStack() as stack:
        until(lambda: ready(url))
        body = b"Content-Length: 1000000\r\n\r\n{"
        waiting, refused = (stack.enter_context(connect(url)) for _ in range(2))
        waiting.sendall(HEAD + body)
        refused.sendall(HEAD + b"Content-Type: text/plain\r\n" + body)
        assert refused.recv(1 << 16).startswith(b"HTTP/1.1 415 ")
        until(lambda: b"requests_in_flight 2" in httpx.get(f"{url}/metrics").content)
        running.send_signal(signal.SIGTERM)
        while running.poll() is None:
            for connection in (waiting, refused):
                with contextlib.suppress(OSError):
                    connection.send(b" ")
            time.sleep(0.05)
        assert running.returncode == 0
        assert rest(waiting).startswith(b"HTTP/1.1 503 ")


def test_a_header_may_arrive_one_byte_at_a_time(served: Served) -> None:
    """A blank line may be split over packets in every way."""
    with connected(served) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in LIVE + b"\r\n" + LIVE + b"Connection: close\r\n\r\n":
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert [status for status, _, _ in answers(connection)] == [200, 200]
