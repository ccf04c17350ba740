"""The load: connections in a closed loop, each sending its next request when it has the answer to the last.

A process of its own, python -m tests.benchmarks.load (an order as JSON on standard input, figures on standard output),
on bare sockets and epoll, since what the load costs is taken from the services it measures.
"""

import json
import re
import selectors
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import cycle

PATIENCE = 60.0  # seconds without any answer
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Order:
    """What to send, where to, and for how long."""

    host: str
    port: int
    path: str
    bodies: list[str]
    """Taken in turn by whichever connection is free."""
    connections: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """What it took; every request that was sent got its answer, with status 200."""

    seconds: float
    """From the first request to the last answer."""
    latencies: list[float]
    """Seconds of each request."""
    cpu_seconds: float
    """Processor time of the load itself."""


class LoadError(Exception):
    """Raised when a request is not answered, or not with 200."""


class Connection:
    """One kept-alive HTTP/1.1 connection with one request under way."""

    def __init__(self, order: Order) -> None:
        self.socket = socket.create_connection((order.host, order.port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, request: bytes) -> None:
        self._answer = b""
        self._sent = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> float | None:
        """Read what is there; return the seconds of the request once its answer is complete."""
        self._answer += (part := self.socket.recv(1 << 16))
        head, end, body = self._answer.partition(b"\r\n\r\n")
        if not part or (end and not head.startswith(b"HTTP/1.1 200 ")):
            raise LoadError(f"the server answered {self._answer[:300]!r}, expected status 200; see its log")
        length = LENGTH.search(head)
        if end and not length:
            raise LoadError(f"the server answered {head[:300]!r}, expected a Content-Length")
        return time.perf_counter() - self._sent if length and len(body) >= int(length[1]) else None


def drive(order: Order) -> Load:
    """Keep every connection busy for the seconds ordered, and wait for the last answers; raise LoadError."""
    requests = cycle([_request(order, body.encode()) for body in order.bodies])
    latencies: list[float] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        connections = [Connection(order) for _ in range(order.connections)]
        start, cpu = time.perf_counter(), time.process_time()
        for connection in connections:
            selector.register(stack.enter_context(connection.socket), selectors.EVENT_READ, connection)
            connection.send(next(requests))
        under_way = order.connections
        while under_way:
            ready = selector.select(PATIENCE)
            if not ready:
                raise LoadError(f"the server has answered none of {under_way} requests for {PATIENCE:g} s; see its log")
            for key, _ in ready:
                if (latency := key.data.receive()) is None:
                    continue
                latencies.append(latency)
                if time.perf_counter() - start < order.seconds:
                    key.data.send(next(requests))
                else:
                    under_way -= 1
        return Load(time.perf_counter() - start, latencies, time.process_time() - cpu)


def _request(order: Order, body: bytes) -> bytes:
    lines = (
        f"POST {order.path} HTTP/1.1",
        f"Host: {order.host}:{order.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join((*lines, "", "")).encode() + body


def main() -> None:
    try:
        json.dump(asdict(drive(Order(**json.load(sys.stdin)))), sys.stdout)
    except (LoadError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
