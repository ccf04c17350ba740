"""If this breaks, input that is not HTTP gets no answer, an invalid one, or that of another request."""

import json
from pathlib import Path

import httpx
import pytest

from service.metrics import MALFORMED
from tests.service.serving import Served, serving, until
from tests.service.sockets import BODY, HEAD, LENGTH, LIVE, answers, check_problem, connected, rest

MALFORMED_REQUESTS = {
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400, "tls", "speaks TLS"),
    "http2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "http2", "HTTP/2"),
    "words": (b"hello there\r\n\r\n", 400, "not-http", "Invalid method"),
    "bytes": (bytes(range(128, 256)), 400, "not-http", "Invalid method"),
    "nul in path": (b"GET /\0 HTTP/1.1\r\n\r\n", 400, "not-http", "Invalid char in url"),
    "nul in header": (b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n", 400, "not-http", "Invalid header value"),
    "no path": (b"GET http:// HTTP/1.1\r\n\r\n", 400, "not-http", ""),
    "space in name": (b"GET / HTTP/1.1\r\nX : a\r\n\r\n", 400, "not-http", "Invalid header"),
    "folded": (b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400, "not-http", "whitespace"),
    "length": (HEAD + b"Content-Length: -1\r\n\r\n", 400, "not-http", "Content-Length"),
    "two lengths": (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "not-http", "Content-Length"),
    "two framings": (HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "not-http", "present"),
    "many headers": (LIVE + b"X: a\r\n" * 300 + b"\r\n", 431, "headers-too-many", "256 headers"),
    "long header": (LIVE + b"X: " + b"a" * 70_000 + b"\r\n\r\n", 431, "headers-too-long", "65536 bytes"),
    "empty lines": (b"\r\n" * 40_000, 431, "headers-too-long", "65536 bytes"),
}


@pytest.mark.parametrize(("request_", "status", "reason", "says"), MALFORMED_REQUESTS.values(), ids=MALFORMED_REQUESTS)
def test_what_is_not_http_is_a_problem_logged_and_counted(
    served: Served, request_: bytes, status: int, reason: str, says: str
) -> None:
    before = served.sample("malformed_requests_total", reason=reason)
    requests = served.sample("requests_total", route="other", head="", status=str(status))
    with connected(served) as connection:
        connection.sendall(request_)
        ((code, headers, body),) = answers(connection)
    answer = httpx.Response(code, headers=headers, content=body)
    check_problem(answer, status, says)
    assert served.sample("malformed_requests_total", reason=reason) == before + 1
    assert served.sample("requests_total", route="other", head="", status=str(status)) == requests + 1
    assert reason in MALFORMED


@pytest.mark.parametrize("coding", [b"Transfer-Encoding: gzip\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_a_body_that_is_malformed_is_400_once(served: Served, coding: bytes) -> None:
    before = served.sample("malformed_requests_total", reason="not-http")
    with connected(served) as connection:
        connection.sendall(HEAD + coding)
        ((code, headers, body),) = answers(connection)
    check_problem(httpx.Response(code, headers=headers, content=body), 400, "not valid HTTP")
    assert served.sample("malformed_requests_total", reason="not-http") == before + 1
    until(lambda: served.sample("requests_in_flight") == 0)


@pytest.mark.parametrize("headers", [b"X: " + b"a" * 70_000, b"Content-Length: -1"])
def test_clients_of_the_inference_protocol_can_read_what_is_malformed(served: Served, headers: bytes) -> None:
    with connected(served) as connection:
        connection.sendall(b"POST /v2/models/sentiment/infer HTTP/1.1\r\n" + headers + b"\r\n\r\n")
        ((_, found, body),) = answers(connection)
    problem = json.loads(body)
    assert found["content-type"] == "application/json" and problem["error"] == problem["detail"]


def test_malformed_input_after_a_request_does_not_take_its_answer(served: Served) -> None:
    with connected(served) as connection:
        connection.sendall(HEAD + LENGTH + BODY + b"\x16\x03\x01")
        assert [status for status, _, _ in answers(connection)] == [200, 400]


def test_a_request_that_was_refused_and_then_breaks_is_answered_once(bundle: Path) -> None:
    with serving(bundle, lanes=1, api_key="secret") as served, connected(served) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
        found = answers(connection)
        assert next(found)[0] == 401
        connection.sendall(b"zz\r\n")
        assert list(found) == []


def test_a_tls_handshake_is_logged_with_its_client_but_without_its_bytes(
    bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(bundle, lanes=1) as served:
        for _ in range(5):
            with connected(served) as connection:
                connection.sendall(MALFORMED_REQUESTS["tls"][0])
                rest(connection)
        assert served.sample("malformed_requests_total", reason="tls") == 5
    lines = [record.fields for record in caplog.records if record.getMessage() == "malformed requests"]  # type: ignore[attr-defined]
    assert lines[0]["client"] == "127.0.0.1" and lines[0]["reason"] == "tls" and "TLS" in lines[0]["detail"]
    assert len(lines) < 5 and sum(line["count"] for line in lines) <= 5


def test_a_head_that_is_late_is_408_and_counted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocol.HEAD_SECONDS", 0.3)
    with serving(bundle, lanes=1) as served, connected(served) as connection:
        connection.sendall(LIVE)
        assert rest(connection).startswith(b"HTTP/1.1 408 ")
        assert served.sample("malformed_requests_total", reason="headers-too-slow") == 1
