"""If this breaks, a wrong key is accepted, or an error or a log line reveals a secret."""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import logs
from service.errors import queue_full
from service.metrics import Metrics
from service.middleware import Middleware, Pauses, RequestInfo
from service.queue import Deadline
from service.settings import Settings
from tests.service.serving import Served, serving
from tests.service.test_bad_input import problem


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many wrong keys come from this one address."""
    monkeypatch.setattr("service.middleware.GUESS_PAUSE", 0.0)


@pytest.fixture(scope="module")
def guarded(bundle: Path) -> Iterator[Served]:
    with serving(bundle, api_key="s3cret", protect_metrics=True) as guarded:
        yield guarded


PROTECTED = ["/heads", "/heads/qa", "/metrics", "/nothing", "/classify"]
OPEN = ["/", "/docs", "/openapi.json", "/health/live", "/health/ready"]


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "Bearer \xff"],
)
def test_without_the_key_nothing_is_revealed(guarded: Served, path: str, authorization: str) -> None:
    response = httpx.get(
        guarded.url + path, headers={b"Authorization": authorization.encode("latin-1")} if authorization else {}
    )
    assert problem(response, 401)["errors"][0]["field"] == "Authorization"
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "s3cret" not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_every_route_is_open(guarded: Served, scheme: str) -> None:
    headers = {"Authorization": f"{scheme} s3cret"}
    assert httpx.get(guarded.url + "/heads", headers=headers).status_code == 200
    assert httpx.get(guarded.url + "/metrics", headers=headers).status_code == 200
    assert httpx.post(guarded.url + "/classify", headers=headers, json={"inputs": "a"}).status_code == 200


@pytest.mark.parametrize("key", ["pass-à", "ключ-Ѕ", "a b"])
def test_a_key_may_end_in_any_letter(bundle: Path, key: str) -> None:
    """The last byte of some letters is a blank in Latin-1, which headers are read as."""
    with serving(bundle, lanes=1, api_key=key) as served:
        headers = {b"Authorization": b"Bearer  " + key.encode()}
        assert httpx.get(f"{served.url}/heads", headers=headers).status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_health_and_pages_need_no_key(guarded: Served, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code == 200


def test_refusals_are_counted(guarded: Served) -> None:
    before = guarded.sample("rejected_total", reason="unauthorized")
    httpx.get(guarded.url + "/heads")
    assert guarded.sample("rejected_total", reason="unauthorized") == before + 1


def test_a_key_may_have_any_letters(bundle: Path) -> None:
    with serving(bundle, api_key="schlüssel") as guarded:
        given = {b"Authorization": b"Bearer " + "schlüssel".encode()}
        assert httpx.get(guarded.url + "/heads", headers=given).status_code == 200
        assert httpx.get(guarded.url + "/heads", headers={b"Authorization": b"Bearer schl"}).status_code == 401
        assert httpx.get(guarded.url + "/metrics").status_code == 200


@pytest.mark.parametrize("given", ["abc-123", "a" * 128, "00-4bf92f3577b34da6a3ce929d0e0e4736"])
def test_a_request_id_is_kept(served: Served, given: str) -> None:
    assert served.client.get("/health/live", headers={"X-Request-Id": given}).headers["X-Request-Id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a" * 129, "<script>", "ä", 'a"b'])
def test_an_invalid_request_id_is_replaced(served: Served, given: str) -> None:
    answered = served.client.get("/health/live", headers={b"X-Request-Id": given.encode()}).headers["X-Request-Id"]
    assert answered != given and len(answered) == 32


def test_an_internal_error_reveals_nothing_but_its_id(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr("service.routes.plan_task", fail)
    response = served.post("/classify", "a text nobody may log")
    answer = problem(response, 500)
    assert "secret" not in response.text
    assert "secret of the house" in caplog.text and answer["request_id"] in caplog.text
    assert "a text nobody may log" not in caplog.text


def test_a_failure_of_the_model_is_500_for_that_request_alone(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    head = served.service.heads.by_name["topic"]
    run = type(head.session).run

    def fail(self: Any, items: Any) -> Any:
        if any(name == "topic" for name, _ in items):
            raise RuntimeError("secret of the house")
        return run(self, items)

    monkeypatch.setattr(type(head.session), "run", fail)
    assert "secret" not in str(problem(served.post("/classify/topic", "a"), 500))
    assert served.post("/classify/sentiment", "a").status_code == 200
    assert served.client.get("/health/live").status_code == 200


def test_the_access_log_has_what_matters_and_never_the_input(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.access")
    served.client.post("/classify/topic?x=%0Afake", json={"inputs": "private words"}, headers={"X-Request-Id": "r1"})
    served.client.get("/health/live")
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    fields: dict[str, Any] = getattr(record, logs.FIELDS)
    assert (fields["method"], fields["path"], fields["status"]) == ("POST", "/classify/topic", 200)
    assert (fields["head"], fields["request_id"], fields["client"]) == ("topic", "r1", "127.0.0.1")
    assert fields["ms"] > 0 and fields["tokens"] > 2
    assert "private" not in json.dumps(fields, default=str)


def test_nobody_can_write_lines_into_the_log(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "service.access")
    served.client.get("/a%0AINFO forged%1b[31m")
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    for formatter in (logs.TextFormatter(), logs.JsonFormatter()):
        line = formatter.format(record)
        assert "\n" not in line and "\x1b" not in line
    assert json.loads(logs.JsonFormatter().format(record))["status"] == 404


def test_a_request_starts_without_a_route() -> None:
    assert RequestInfo("id", 0.0).route == "other"


PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NO_PARENTS = [
    "",
    "4bf92f3577b34da6a3ce929d0e0e4736",
    PARENT + "-x",
    PARENT.upper().replace("00F0", "00f0"),
    "00-" + "0" * 32 + PARENT[35:],
    PARENT[:36] + "0" * 16 + "-01",
]


@pytest.mark.parametrize("given", [PARENT, *NO_PARENTS])
def test_the_access_log_names_the_trace_of_the_client(
    served: Served, caplog: pytest.LogCaptureFixture, given: str
) -> None:
    caplog.set_level(logging.INFO, "service.access")
    served.client.get("/heads", headers={"traceparent": given})
    (record,) = [record for record in caplog.records if record.name == "service.access"]
    assert getattr(record, logs.FIELDS).get("trace_id") == (PARENT[3:35] if given == PARENT else None)


@pytest.mark.parametrize("path", ["/heads", "/classify", "/nothing", "/health/live", "/metrics", "/openapi.json"])
def test_answers_are_neither_guessed_at_nor_stored(guarded: Served, path: str) -> None:
    for client in (guarded.client, httpx):
        headers = client.get(guarded.url + path).headers
        assert headers.get_list("X-Content-Type-Options") == ["nosniff"]
        assert headers.get_list("Cache-Control") == ["no-store"]


def test_files_keep_the_lifetime_that_they_have(served: Served) -> None:
    headers = served.client.get("/docs").headers
    assert headers.get_list("Cache-Control") != ["no-store"] and len(headers.get_list("Cache-Control")) == 1
    assert served.client.get("/").headers.get_list("X-Content-Type-Options") == ["nosniff"]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each pause, none of which is waited for."""
    seconds: list[float] = []

    async def pause(_: Pauses, wanted: float) -> bool:
        seconds.append(wanted)
        return True

    monkeypatch.setattr(Pauses, "pause", pause)
    return seconds


def through_gate(
    status: int, path: str, draining: bool, room: bool = True, method: str = "POST", tasks: Any = MappingProxyType({})
) -> httpx.Response:
    """Return the answer of an app behind the middleware that always gives one status."""

    def check_room(tokens: int, deadline: Deadline) -> None:
        if not room:
            raise queue_full("1000 tokens wait", 2.5)

    engine = SimpleNamespace(check_room=check_room)
    service = SimpleNamespace(draining=draining, engine=engine, settings=Settings())
    whole: Any = SimpleNamespace(state=SimpleNamespace(service=service))
    middleware = Middleware(Response("app", status), whole, Settings(), Metrics(), tasks=tasks)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(middleware), base_url="http://service") as client:
            return await client.request(method, path)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("POST", "/classify", "task"),
        ("POST", "/tag/my%20words", "my words"),
        ("GET", "/classify", "app"),
        ("POST", "/classify/", "app"),
        ("POST", "/tag/words/more", "app"),
        ("POST", "/qa", "app"),
    ],
)
def test_tasks_are_found_ahead_of_all_routes(method: str, path: str, expected: str) -> None:
    async def task(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(scope["path_params"].get("head", "task"))(scope, receive, send)

    tasks = {"/classify": task, "/tag/{head}": task}
    assert through_gate(200, path, draining=False, method=method, tasks=tasks).text == expected


@pytest.mark.parametrize("path", ["/classify", "/tag/words", "/explain", "/explain/topic"])
def test_overload_refuses_requests_for_heads_before_anything_else(path: str) -> None:
    response = through_gate(200, path, draining=False, room=False)
    assert response.status_code == 429 and response.headers["Retry-After"] == "3"


@pytest.mark.parametrize(
    ("status", "path", "draining", "expected"),
    [
        (503, "/classify", True, [1.0]),
        (503, "/classify", False, []),
        (503, "/health/ready", True, []),
        (200, "/classify", True, []),
        (429, "/classify", True, []),
    ],
)
def test_a_refusal_while_draining_takes_a_while(
    pauses: list[float], status: int, path: str, draining: bool, expected: list[float]
) -> None:
    """Else a client that repeats at once sends hundreds of requests per second."""
    response = through_gate(status, path, draining)
    assert response.status_code == status and pauses == expected
    assert response.headers.get("Connection") == ("close" if draining else None)


def test_guesses_are_slowed_down_and_the_right_key_is_not(bundle: Path, pauses: list[float]) -> None:
    with serving(bundle, lanes=1, api_key="s3cret") as guarded:
        for number in range(13):
            wrong = httpx.get(f"{guarded.url}/heads", headers={"Authorization": f"Bearer {number}"})
            assert wrong.status_code == 401
        assert len(pauses) == 3
        assert httpx.get(f"{guarded.url}/heads").status_code == 401  # no key is no guess
        assert guarded.client.get("/heads").status_code == 200 and len(pauses) == 3


def test_one_guess_too_many_closes_its_connection(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.middleware.MAX_PAUSED", 0)
    with serving(bundle, lanes=1, api_key="s3cret") as guarded, httpx.Client(base_url=guarded.url) as client:
        answers = [client.get("/heads", headers={"Authorization": "Bearer wrong"}) for _ in range(11)]
        assert [answer.headers.get("Connection") for answer in answers] == [None] * 10 + ["close"]
        assert guarded.client.get("/heads").headers.get("Connection") is None


def test_pauses_are_bounded_and_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.middleware.MAX_PAUSED", 2)

    async def scenario() -> None:
        pauses = Pauses()
        waiting = [asyncio.create_task(pauses.pause(3600)) for _ in range(2)]
        await asyncio.sleep(0)
        assert not await pauses.pause(3600)
        for task in waiting:
            task.cancel()
        assert await asyncio.gather(*waiting) == [True, True]
        assert await pauses.pause(0)

        async def cut() -> bool:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                return await pauses.pause(3600)
            return True

        last = asyncio.create_task(cut())
        await asyncio.sleep(0)
        last.cancel()
        assert not await last

    asyncio.run(asyncio.wait_for(scenario(), 20))
