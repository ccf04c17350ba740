"""If this breaks, an answer is cut off when its connection closes, or leaves in two packets."""

import asyncio
import socket
from typing import Any, cast

from service.protocol import Corked
from tests.service.serving import Served


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


def test_what_is_written_in_one_turn_leaves_together_and_in_order() -> None:
    async def scenario() -> None:
        transport = Transport()
        corked = Corked(cast(Any, transport), asyncio.get_running_loop())
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
