"""The load: bare sockets and epoll in a process of its own, since what it costs is taken from the services it measures.

Closed loop (`drive`): each connection sends its next request when it has the answer to its last. Open loop (`offer`):
requests come at random times (a Poisson process) whether the last are answered or not, as users do; latency counts from
the time at which a request was due.
"""

import re
import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle, islice, takewhile
from typing import NamedTuple

import numpy as np

from models.errors import BertheadsError

PATIENCE = 60.0  # seconds without any answer
HEAD = "POST {} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Address = tuple[str, int]
Call = tuple[str, bytes]
"""Path and body."""


class BenchmarkError(BertheadsError):
    """Raised when there is nothing to measure, or what is to be measured does not answer."""


class Answer(NamedTuple):
    """One answer: to which of the calls, and the seconds since it was sent, in the open loop since it was due."""

    number: int
    status: int
    seconds: float
    body: bytes


class Load(NamedTuple):
    """What came back: an answer to every request that was sent."""

    seconds: float  # from the first request to the last answer
    answers: list[Answer]
    cpu_seconds: float  # of the load itself

    def latencies(self, status: int = 200) -> list[float]:
        """Seconds of the requests that were answered with a status."""
        return [answer.seconds for answer in self.answers if answer.status == status]


class Request(NamedTuple):
    """A call as it is sent."""

    number: int
    bytes: bytes


class Connection:
    """One kept-alive HTTP/1.1 connection with one request in flight."""

    def __init__(self, address: Address) -> None:
        self.socket = socket.create_connection(address, PATIENCE)

    def send(self, request: "Request", due: float | None = None) -> None:
        self._answer, self._sent, self._number = b"", due or time.perf_counter(), request.number
        self.socket.sendall(request.bytes)

    def receive(self) -> Answer | None:
        """Read what is there; return the answer once it is complete."""
        self._answer += (part := self.socket.recv(1 << 16))
        head, end, body = self._answer.partition(b"\r\n\r\n")
        status, length = STATUS.match(head), LENGTH.search(head)
        if not part or (end and not (status and length)):
            raise BenchmarkError(f"a service answered {self._answer[:300]!r}, expected a status and a length")
        if not (status and length) or len(body) < int(length[1]):
            return None
        return Answer(self._number, int(status[1]), time.perf_counter() - self._sent, body)


def drive(address: Address, calls: Sequence[Call], connections: int, seconds: float, headers: str = "") -> Load:
    """Keep connections busy with the calls in turn for some seconds, then wait for the last answers."""
    end = time.perf_counter() + seconds
    return _closed(address, takewhile(lambda _: time.perf_counter() < end, _requests(calls, headers)), connections)


def repeat(address: Address, calls: Sequence[Call], count: int, connections: int) -> Load:
    """Keep connections busy until `count` requests, the calls in turn, are answered."""
    return _closed(address, islice(_requests(calls), count), connections)


def _closed(address: Address, requests: Iterator[Request], connections: int) -> Load:
    answers: list[Answer] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        start, cpu = time.perf_counter(), time.process_time()
        for following in islice(requests, connections):
            _open(stack, selector, address).send(following)
        while selector.get_map():
            if not (ready := selector.select(PATIENCE)):
                raise _silent(address)
            for key, _ in ready:
                if (answer := key.data.receive()) is None:
                    continue
                if answer.status != 200:
                    raise BenchmarkError(f"a service answered {answer.status}: {answer.body[:300]!r}, expected 200")
                answers.append(answer)
                if (request := next(requests, None)) is None:
                    selector.unregister(key.fileobj)
                else:
                    key.data.send(request)
        return Load(time.perf_counter() - start, answers, time.process_time() - cpu)


def offer(
    address: Address, calls: Sequence[Call], rate: float, seconds: float, headers: str = "", seed: int = 0
) -> Load:
    """Send calls in turn at `rate` per second, each on a free connection; count every status."""
    requests = _requests(calls, headers)
    times = np.random.default_rng(seed).exponential(1 / rate, round(rate * seconds)).cumsum()
    answers: list[Answer] = []
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        free: list[Connection] = []
        start, cpu = time.perf_counter(), time.process_time()
        due = iter((start + times).tolist())
        following, left = next(due, None), len(times)
        while left:
            now = time.perf_counter()
            while following is not None and following <= now:
                connection = free.pop() if free else _open(stack, selector, address)
                connection.send(next(requests), following)
                following = next(due, None)
            wait = PATIENCE if following is None else max(0.0, following - time.perf_counter())
            ready = selector.select(wait)
            if not ready and following is None:
                raise _silent(address)
            for key, _ in ready:
                if answer := key.data.receive():
                    answers.append(answer)
                    free.append(key.data)
                    left -= 1
        return Load(time.perf_counter() - start, answers, time.process_time() - cpu)


def _open(stack: ExitStack, selector: selectors.BaseSelector, address: Address) -> Connection:
    connection = Connection(address)
    selector.register(stack.enter_context(connection.socket), selectors.EVENT_READ, connection)
    return connection


def _requests(calls: Sequence[Call], headers: str = "") -> Iterator[Request]:
    """Yield the calls again and again."""
    made = [request(number, call, headers) for number, call in enumerate(calls)]
    return cycle(made)


def request(number: int, call: Call, headers: str = "") -> Request:
    """Return a call as it is sent, with further lines of headers."""
    path, body = call
    return Request(number, HEAD.format(path, headers, len(body)).encode() + body)


def _silent(address: Address) -> BenchmarkError:
    return BenchmarkError(f"port {address[1]} has not answered for {PATIENCE:g} s, expected an answer; send less")
