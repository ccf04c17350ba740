"""If this breaks, bodies fill the memory, or one that is too large, compressed or misdeclared is answered wrongly."""

import gzip
import json
import socket
import zlib
from collections.abc import Callable

import pytest

from tests.service.serving import Served, until
from tests.service.test_bad_input import problem, send


@pytest.mark.parametrize("content_type", ["application/xml", "text/plain", "multipart/form-data; boundary=x"])
def test_what_is_declared_as_something_else_is_415(served: Served, content_type: str) -> None:
    response = served.client.post("/classify", content=b'{"inputs": "a"}', headers={"Content-Type": content_type})
    assert "application/json" in problem(response, 415)["detail"]


def test_a_body_over_the_limit_is_413_before_it_is_read(served: Served) -> None:
    assert "100000" in problem(send(served, b" " * 100_001), 413)["detail"]


def raw(served: Served, request: bytes) -> bytes:
    """Send bytes, and return all that comes back until the server closes."""
    with socket.create_connection(
        (served.client.base_url.host, served.client.base_url.port or 0), timeout=20
    ) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


def test_an_announced_body_over_the_limit_is_not_waited_for(served: Served) -> None:
    answer = raw(served, b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ") and b"connection: close" in answer.lower()


def test_an_endless_body_in_chunks_is_413(served: Served) -> None:
    chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
    answer = raw(served, b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 7)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_long_bodies_at_a_time_are_bounded_and_short_ones_pass(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.request_body.MAX_BODIES", 120_000)
    long = b'{"inputs": "the cat"' + b" " * 70_000 + b"}"
    host, port = served.client.base_url.host, served.client.base_url.port or 0
    with socket.create_connection((host, port), timeout=20) as slow:
        slow.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(long) + long[:-1])
        until(lambda: served.service.bodies.size == len(long) - 1)
        refused = send(served, long)
        assert "are in progress" in problem(refused, 429)["detail"] and refused.headers["Retry-After"] == "1"
        assert send(served, b'{"inputs": "the cat"}').status_code == 200
        slow.sendall(long[-1:])
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    assert send(served, long).status_code == 200
    assert served.service.bodies.size == 0


def test_bodies_count_as_much_as_their_texts_take(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One emoji makes Python keep its whole text in four bytes a character."""
    monkeypatch.setattr("service.request_body.MAX_BODIES", 120_000)

    def body(first: str) -> bytes:
        return json.dumps({"inputs": [first + "x " * 2400] * 8}, ensure_ascii=False).ljust(70_000).encode()

    assert send(served, body("x ")).status_code == 200
    assert "are in progress" in problem(send(served, body("\U0001f600")), 429)["detail"]
    assert served.service.bodies.size == 0


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("GZip", gzip.compress),
        ("Identity", bytes),
    ],
)
def test_a_body_may_be_compressed(served: Served, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    body = compress(b'{"inputs": "the cat sat"}')
    answer = served.client.post("/classify", content=body, headers={"Content-Encoding": encoding})
    assert answer.json() == served.answer("/classify", "the cat sat")


@pytest.mark.parametrize(
    ("body", "encoding", "status", "says"),
    [
        (b'{"inputs": "a"}', "br", 415, "encoded as br; send gzip, deflate or no Content-Encoding"),
        (b'{"inputs": "a"}', "gzip, gzip", 415, "gzip, gzip"),
        (b'{"inputs": "a"}', "gzip", 400, "is not what its Content-Encoding says"),
        (gzip.compress(b'{"inputs": "a"}', mtime=0)[:-4], "gzip", 400, "ends before its compressed data does"),
        (gzip.compress(b'{"inputs": "a"}', mtime=0) + b"x", "gzip", 400, "continues after its compressed data"),
        (gzip.compress(b'{"inputs": "' + b" " * 5_000_000), "gzip", 413, "inflated form exceeds the limit of 100000"),
        (gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * 30_000, "gzip", 413, "exceeds the limit of 100000"),
        (gzip.compress(b'{"inputs": 1}', mtime=0), "", 400, "not UTF-8"),
        (b" " * 100_001, "br", 415, "encoded as br"),
    ],
)
def test_a_wrongly_compressed_body_is_refused(
    served: Served, body: bytes, encoding: str, status: int, says: str
) -> None:
    headers = {"Content-Encoding": encoding} if encoding else {}
    for content in (body, iter([body])):  # with its length, and in chunks
        assert says in problem(served.client.post("/classify", content=content, headers=headers), status)["detail"]


def test_a_million_characters_are_refused(served: Served) -> None:
    assert send(served, json.dumps({"inputs": "x" * 1_000_000})).status_code == 413
