"""If this breaks, an answer is cut off when its connection closes, or a silent client keeps a connection for ever."""

import asyncio
import json
import socket
import time
from pathlib import Path
from typing import Any, cast

import pytest

from service.protocol import MAX_HEAD
from service.transport import Corked
from tests.service.serving import Served, serving
from tests.service.sockets import BODY, LENGTH, connected, rest


class Transport:
    """Notes what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_writes_of_one_loop_turn_leave_together_and_in_order() -> None:
    async def scenario() -> None:
        transport = Transport()
        corked = Corked(cast(Any, transport), asyncio.get_running_loop(), transport.close)
        corked.write(b"head")
        corked.write(b"body")
        assert transport.sent == [] and not corked.is_closing()
        await asyncio.sleep(0)
        corked.write(b"next")
        await asyncio.sleep(0)
        assert transport.sent == [b"headbody", b"next"]
        corked.write(b"last")
        corked.close()
        await asyncio.sleep(0)
        assert transport.sent[2:] == [b"last"] and transport.closed
        corked.write(b"too late")
        await asyncio.sleep(0)
        assert len(transport.sent) == 3

    asyncio.run(scenario())


def test_an_answer_is_whole_when_the_connection_closes_after_it(served: Served) -> None:
    url = served.client.base_url
    body = b'{"inputs": "the cat"}'
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        answer = b""
        while part := connection.recv(1 << 16):
            answer += part
    start, _, rest = answer.partition(b"\r\n\r\n")
    assert start.startswith(b"HTTP/1.1 200 ") and f"content-length: {len(rest)}".encode() in start.lower()


def test_an_endless_request_header_is_refused(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nX-Long: ")
        time.sleep(0.2)  # what comes with the first packet does not count
        connection.sendall(b"a" * (MAX_HEAD + 1))
        head, _, body = rest(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ") and json.loads(body)["status"] == 431


def test_each_of_many_requests_may_have_a_long_header(served: Served) -> None:
    for _ in range(4):
        assert served.client.get("/health/live", headers={"X-Long": "a" * (MAX_HEAD // 3)}).status_code == 200
    body = b'{"inputs": "the cat"}'.ljust(90_000)
    assert served.client.post("/classify", content=body).status_code == 200


@pytest.mark.parametrize("begun", [b"", b"GET /hea", b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /"])
def test_a_client_that_does_not_finish_its_header_is_disconnected(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr("service.protocol.HEAD_SECONDS", 0.5)
    with serving(bundle, lanes=1) as served, connected(served) as connection:
        connection.sendall(begun)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 200 ") == (b"\r\n\r\n" in begun)


def test_a_client_that_goes_on_sending_a_refused_body_is_disconnected(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.server.KEEP_ALIVE", 1)
    with serving(bundle, lanes=1, api_key="secret") as served, connected(served) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")
        time.sleep(0.1)
        connection.sendall(b" ")
        assert rest(connection) == b""


OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n",
    "websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZQ==\r\n",
}
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"8\r\n" + BODY[:8] + b"\r\nd\r\n" + BODY[8:] + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("offer", OFFERS.values(), ids=OFFERS)
@pytest.mark.parametrize(("framing", "body"), [(LENGTH, BODY), (CHUNKED, CHUNKS)], ids=["length", "chunks"])
@pytest.mark.parametrize("pause", [0, 1, 5, 1000])
def test_an_offer_of_another_protocol_is_ignored(
    served: Served, offer: bytes, framing: bytes, body: bytes, pause: int
) -> None:
    """Java's client makes one with every request; `pause`: after so many bytes of the body, or before it."""
    request = b"POST /classify HTTP/1.1\r\nHost: x\r\n" + offer + framing
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(served) as connection:
        connection.sendall(request + body[:pause])
        time.sleep(0.05)
        connection.sendall(body[pause:] + request + body + last)
        answer = rest(connection)
    assert answer.count(b"HTTP/1.1 200 OK") == answer.count(b"HTTP/1.1 ") == 3
    assert answer.count(b"positive") == 2 and answer.endswith(b'{"status":"live"}')


def test_many_offers_at_once_are_ignored(served: Served) -> None:
    count = 3000
    request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    last = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with connected(served) as connection:
        connection.sendall(request * count + last)
        assert rest(connection).count(b"HTTP/1.1 200 OK") == count + 1


def test_an_offer_opens_no_way_around_the_key(bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="secret") as served, connected(served) as connection:
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n" + OFFERS["websocket"] + LENGTH + BODY)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def test_an_offer_does_not_make_two_framings_valid(served: Served) -> None:
    with connected(served) as connection:
        both = LENGTH[:-2] + CHUNKED
        connection.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\n" + OFFERS["h2c"] + both + CHUNKS)
        answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1 ") == 1


MANY = 64
LARGE = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * MANY
"""Its answers are more than the system takes for one connection."""


@pytest.mark.parametrize("told", [True, False])
def test_a_client_that_does_not_read_is_disconnected_but_a_slow_reader_is_not(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """`told`: whether the system tells how much of an answer it holds."""
    if not told:
        monkeypatch.setattr("service.unread.TIOCOUTQ", None)
    monkeypatch.setattr("service.unread.UNREAD_SECONDS", 1.0)
    with serving(bundle, lanes=1) as served, connected(served) as idle, connected(served) as slow:
        whole = len(served.client.get("/openapi.json").content)
        for connection in (idle, slow):
            connection.sendall(LARGE)
        read = 0
        while read < MANY * whole:
            part = slow.recv(1 << 17)
            assert part, "the slow one was let go"
            read += len(part)
            time.sleep(0.015)  # more than two seconds in all
        assert len(rest(idle)) < MANY * whole


def test_when_too_much_is_unread_the_oldest_such_client_is_disconnected(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.unread.MAX_UNREAD", 1 << 18)
    with serving(bundle, lanes=1) as served, connected(served) as first, connected(served) as second:
        whole = len(served.client.get("/openapi.json").content)
        for connection in (first, second):
            connection.sendall(LARGE)
            time.sleep(0.5)  # it comes to a halt
        assert len(rest(first)) < MANY * whole
        assert served.client.get("/health/live").status_code == 200
