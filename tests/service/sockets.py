"""Requests byte by byte, over sockets."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.service.serving import Served

HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"inputs": "the cat"}'
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


def chunked(body: bytes, trailers: bytes) -> bytes:
    return b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n%b\r\n" % (len(body), body, trailers)


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    url = served.client.base_url
    with socket.create_connection((url.host, url.port or 0), timeout=20) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Read until the other side closes; a reset is a close too."""
    answer = b""
    try:
        while part := connection.recv(1 << 16):
            answer += part
    except ConnectionResetError:
        pass
    return answer


def answers(connection: socket.socket) -> Iterator[tuple[int, dict[str, str], bytes]]:
    """Yield the status, headers and body of each answer until the connection closes."""
    with connection.makefile("rb") as stream:
        while line := stream.readline():
            headers: dict[str, str] = {}
            while (header := stream.readline()) != b"\r\n":
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            yield int(line.split()[1]), headers, stream.read(int(headers["content-length"]))


def ask(connection: socket.socket, request: bytes) -> httpx.Response:
    connection.sendall(request)
    status, headers, body = next(answers(connection))
    return httpx.Response(status, headers=headers, content=body)


def check_problem(answer: httpx.Response, status: int, says: str) -> None:
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["Content-Type"] == "application/problem+json" and answer.headers["Connection"] == "close"
    assert says in problem["detail"] and problem["request_id"] == answer.headers["X-Request-Id"] != ""
