"""If this breaks, a wrong key opens the door, or an error or a log line gives away what nobody should see."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import logs
from service.gate import Trace
from tests.service.serving import Served, serving
from tests.service.test_bad_input import problem


@pytest.fixture(scope="module")
def guarded(bundle: Path) -> Iterator[Served]:
    with serving(bundle, api_key="s3cret", protect_metrics=True) as guarded:
        yield guarded


PROTECTED = ["/heads", "/heads/qa", "/metrics", "/nothing", "/classify"]
OPEN = ["/", "/docs", "/docs/swagger-ui.css", "/openapi.json", "/health/live", "/health/ready"]


@pytest.mark.parametrize("path", PROTECTED)
@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer wrong", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", "Bearer \xff"],
)
def test_without_the_key_nothing_is_told(guarded: Served, path: str, authorization: str) -> None:
    response = httpx.get(
        guarded.url + path, headers={b"Authorization": authorization.encode("latin-1")} if authorization else {}
    )
    assert problem(response, 401)["errors"][0]["field"] == "Authorization"
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "s3cret" not in response.text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_with_the_key_all_is_open(guarded: Served, scheme: str) -> None:
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
def test_a_request_id_that_is_none_is_replaced(served: Served, given: str) -> None:
    answered = served.client.get("/health/live", headers={b"X-Request-Id": given.encode()}).headers["X-Request-Id"]
    assert answered != given and len(answered) == 32


def test_a_failure_of_ours_gives_nothing_away_but_its_id(
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


def test_a_trace_starts_without_a_route() -> None:
    assert Trace("id", 0.0).route == "other"
