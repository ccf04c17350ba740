"""The load: connections in a closed loop, each sending its next request when it has the answer to the last.

Bare sockets and epoll in a process of its own, since what the load costs is taken from the services it measures.
"""

import re
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import NamedTuple

from models.errors import BertheadsError

PATIENCE = 60.0  # seconds without any answer
HEAD = "POST {} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class BenchmarkError(BertheadsError):
    """Raised when there is nothing to measure, or what is to be measured does not answer."""


class Load(NamedTuple):
    """What came back: an answer to every request that was sent."""

    seconds: float  # from the first request to the last answer
    latencies: list[float]  # seconds of each request
    cpu_seconds: float  # of the load itself


class Connection:
    """One kept-alive HTTP/1.1 connection with one request under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, PATIENCE)

    def send(self, request: bytes) -> None:
        self._answer, self._sent = b"", time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> float | None:
        """Read what is there; return the seconds of the request once its answer is complete."""
        self._answer += (part := self.socket.recv(1 << 16))
        head, end, body = self._answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if not part or (end and not (length and head.startswith(b"HTTP/1.1 200 "))):
            raise BenchmarkError(f"a service answered {self._answer[:300]!r}, expected status 200 and a length")
        return time.perf_counter() - self._sent if length and len(body) >= int(length[1]) else None


def drive(address: tuple[str, int], path: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keep connections busy with the bodies in turn for some seconds, then wait for the last answers."""
    requests = cycle([HEAD.format(path, len(body)).encode() + body for body in bodies])
    latencies: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        start, cpu = time.perf_counter(), time.process_time()
        for connection in [Connection(address) for _ in range(connections)]:
            selector.register(stack.enter_context(connection.socket), selectors.EVENT_READ, connection)
            connection.send(next(requests))
        while selector.get_map():
            if not (ready := selector.select(PATIENCE)):
                raise BenchmarkError(f"{path} has not answered for {PATIENCE:g} s, expected an answer; send less")
            for key, _ in ready:
                if (latency := key.data.receive()) is None:
                    continue
                latencies.append(latency)
                if time.perf_counter() < start + seconds:
                    key.data.send(next(requests))
                else:
                    selector.unregister(key.fileobj)
        return Load(time.perf_counter() - start, latencies, time.process_time() - cpu)
