"""If this breaks, bad input gets a 5xx, a hang, a silent answer, or an error that does not say what to change."""

import json
import re
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import ErrorDetails

from service import request_models
from service.errors import BadRequest
from service.request_body import check_values
from service.request_models import parse_request, request_model
from tests.service.serving import Served
from tests.service.sockets import BODY, LENGTH, ask, connected

OK_QUESTION = {"question": "Who?", "context": "Clara."}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check that a response is a complete problem, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body.keys() == {"type", "title", "status", "detail", "request_id", "errors"}
    assert body["status"] == status and body["request_id"] == response.headers["X-Request-Id"]
    assert body["errors"] and all(error["message"] for error in body["errors"])
    return body


def send(served: Served, body: bytes | str, path: str = "/classify") -> httpx.Response:
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    return served.client.post(path, content=content, headers={"Content-Type": "application/json"})


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "is empty; send a JSON object"),
        (b" \n", "is empty; send a JSON object"),
        (b"{", "not JSON"),
        (b'{"inputs": "a"} x', "not JSON"),
        (b"\xef\xbb\xbf{}", "begins with a byte order mark; send UTF-8 without it"),
        (b'{"inputs": "\xff"}', "not UTF-8: byte 12 is 0xff; send UTF-8"),
        (b'{"inputs": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"inputs": "a"}'.encode("utf-16"), "not UTF-8"),
        (b'{"inputs": ' + b"9" * 5000 + b"}", "thousands of digits"),
        (b"[" * 50_000, "nested"),
        (b'{"a":' * 15_000, "nested"),
        (b'{"inputs": "a \\ud800 b"}', "half of a character"),
        (b'{"inputs": "a", "parameters": {"\\ud800": 1}}', "half of a character"),
        (b'{"inputs": [' + b"1," * 40_000 + b"1]}", "more than 32768 values"),
        (b'{"inputs": "a\nb"}', "not JSON"),
    ],
)
def test_a_body_that_is_not_json_is_400(served: Served, body: bytes, says: str) -> None:
    answer = problem(send(served, body), 400)
    assert says in answer["detail"] and answer["errors"][0]["field"] == "body"


@pytest.mark.parametrize(
    ("path", "document", "field", "says"),
    [
        ("/classify", [], "body", "list"),
        ("/classify", "text", "body", "text"),
        ("/classify", None, "body", "null"),
        ("/classify", {}, "inputs", "missing"),
        ("/classify", {"input": "a", "inputs": "b"}, "input", "did you mean inputs?"),
        ("/classify", {"inputs": "a", "options": 1}, "options", "number 1"),
        ("/classify", {"inputs": "a", "option": {}}, "option", "unknown"),
        ("/classify", {"inputs": float("nan")}, "inputs", "number nan"),
        ("/classify", {"inputs": float("-inf")}, "inputs", "huge number"),
        ("/classify", {"inputs": "a", "parameter": {}}, "parameter", "did you mean parameters?"),
        ("/classify", {"inputs": None}, "inputs", "null"),
        ("/classify", {"inputs": 7}, "inputs", "number 7"),
        ("/classify", {"inputs": True}, "inputs", "true"),
        ("/classify", {"inputs": 10**400}, "inputs", "huge number"),
        ("/classify", {"inputs": {"text": "a"}}, "inputs", "object"),
        ("/classify", {"inputs": ""}, "inputs", "no visible character"),
        ("/classify", {"inputs": " \t\n"}, "inputs", "no visible character"),
        ("/classify", {"inputs": "a\0b"}, "inputs", ""),
        ("/classify", {"inputs": []}, "inputs", "at least 1"),
        ("/classify", {"inputs": ["a"] * 9}, "inputs", "1 to 8"),
        ("/classify", {"inputs": ["a", 3, "b", None]}, "inputs[1]", "number 3"),
        ("/classify", {"inputs": ["a", ["b"]]}, "inputs[1]", "list"),
        ("/classify", {"inputs": ["a", ""]}, "inputs[1]", "no visible character"),
        ("/classify", {"inputs": "a" * 5001}, "inputs", "5001 characters; at most 5000"),
        ("/classify", {"inputs": ["a", "b" * 5001]}, "inputs[1]", "5001 characters; at most 5000"),
        ("/classify", {"inputs": "a", "parameters": []}, "parameters", "list"),
        ("/classify", {"inputs": "a", "parameters": {"topk": 1}}, "parameters.topk", "top_k"),
        ("/classify", {"inputs": "a", "parameters": {"x" * 50_000: 1}}, f"parameters.{'x' * 80}", "is not a parameter"),
        ("/classify", {"inputs": "a", "parameters": {"top_k": 0}}, "parameters.top_k", "0"),
        ("/classify", {"inputs": "a", "parameters": {"top_k": 3}}, "parameters.top_k", "2 labels"),
        ("/classify", {"inputs": "a", "parameters": {"top_k": "1"}}, "parameters.top_k", "1"),
        ("/classify", {"inputs": "a", "parameters": {"top_k": 10**300}}, "parameters.top_k", ""),
        ("/classify", {"inputs": "a", "parameters": {"truncation": "middle"}}, "parameters.truncation", "right"),
        ("/classify", {"inputs": "a " * 99, "parameters": {"truncation": "error"}}, "inputs", "62"),
        ("/tag", {"inputs": []}, "inputs", "1 to 8"),
        ("/tag", {"inputs": [], "parameters": {"is_split_into_words": True}}, "inputs", "word"),
        ("/tag", {"inputs": ["a", ["b"]]}, "inputs[1]", "is_split_into_words"),
        ("/tag", {"inputs": [["a", 1]]}, "inputs[0][1]", "number 1"),
        ("/pair", {"inputs": "a"}, "inputs", '{"text": …, "text_pair": …}'),
        ("/pair", {"inputs": {"text": "a"}}, "inputs.text_pair", "missing"),
        ("/pair", {"inputs": {"text": "a", "text_pair": "b", "c": 1}}, "inputs.c", "unknown"),
        ("/pair", {"inputs": {"text": "a", "text_pair": " "}}, "inputs.text_pair", "no visible"),
        ("/pair", {"inputs": {"text": "a", "text_pair": ["b"]}}, "inputs.text_pair", "is a list, but must be a text"),
        ("/pair", {"inputs": {"text": "a", "text_pair": "b", "c": ["d"]}}, "inputs.c", "unknown"),
        ("/qa", {"inputs": {"question": "a", "context": ["b"]}}, "inputs.context", "is a list, but must be a text"),
        (
            "/pair",
            {"inputs": [{"text": "a", "text_pair": "b"}, {"text": "a", "text_pair": 1}]},
            "inputs[1].text_pair",
            "1",
        ),
        ("/fill-mask", {"inputs": "no mask"}, "inputs", "[MASK]"),
        ("/fill-mask", {"inputs": ["a [MASK]", "no mask"]}, "inputs[1]", "[MASK]"),
        (
            "/fill-mask",
            {"inputs": "a [MASK]", "parameters": {"targets": []}},
            "parameters.targets",
            "has 0 items; send at least 1",
        ),
        ("/fill-mask", {"inputs": "a [MASK]", "parameters": {"targets": "a"}}, "parameters.targets", "must be a list"),
        ("/heads", {"inputs": "a", "heads": []}, "heads", "has 0 items; send at least 1"),
        ("/heads", {"inputs": "a", "heads": ["sentiment"] * 33}, "heads", "has 33 items; send 1 to 32"),
        ("/fill-mask", {"inputs": "a [MASK]", "parameters": {"top_k": 100_000}}, "parameters.top_k", ""),
        ("/qa", {"inputs": "a"}, "inputs", "question"),
        ("/qa", {"inputs": [OK_QUESTION, {"question": " ", "context": "b"}]}, "inputs[1].question", "no visible"),
        ("/qa", {"inputs": {"question": "a", "context": "b" * 5001}}, "inputs.context", "5001"),
        ("/qa", {"inputs": OK_QUESTION, "parameters": {"doc_stride": -1}}, "parameters.doc_stride", ""),
        ("/qa", {"inputs": OK_QUESTION, "parameters": {"max_answer_len": 0}}, "parameters.max_answer_len", ""),
        ("/qa", {"inputs": OK_QUESTION, "parameters": {"topk": 1}}, "parameters.topk", "top_k"),
        (
            "/tag",
            {"inputs": "a", "parameters": {"aggregation_strategy": "mean"}},
            "parameters.aggregation_strategy",
            "simple",
        ),
        ("/tag", {"inputs": "a", "parameters": {"stride": 10_000}}, "parameters.stride", ""),
        ("/tag", {"inputs": "a", "parameters": {"ignore_labels": [0] * 20_000}}, "parameters.ignore_labels", ""),
        ("/fill-mask", {"inputs": "a [MASK]", "parameters": {"targets": ["a" * 101]}}, "parameters.targets.0", "100"),
    ],
)
def test_what_the_model_cannot_take_is_422_and_names_the_field(
    served: Served, path: str, document: object, field: str, says: str
) -> None:
    answer = problem(send(served, json.dumps(document), path), 422)
    assert field in [error.get("field") for error in answer["errors"]], answer
    assert says in answer["detail"]


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 4_000_000,
        b'{"inputs": [' + b"[]," * 1_000_000 + b"[]]}",
        b'{"inputs": {' + b'"a":{},' * 500_000 + b'"b":{}}}',
    ],
    ids=["deep", "lists", "objects"],
)
def test_brackets_are_refused_before_they_become_values(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """A million values would hold the interpreter, and with it the event loop, for a second."""
    made: list[object] = []
    monkeypatch.setattr("service.request_models._relevant", made.append)
    with pytest.raises(BadRequest):
        check_values(body)
        parse_request(body, "classify", request_model("classify", 8, 5000))
    assert not made


def test_brackets_inside_texts_are_not_counted_as_values() -> None:
    check_values(b'{"inputs": "' + b"," * 100_000 + b'"}')
    check_values(b'{"inputs": "' + b'\\",' * 100_000 + b'"}')
    with pytest.raises(BadRequest, match="more than 32768 values"):
        check_values(b'{"inputs": ["",' + b'"\\\\",' * 40_000 + b"]}")


def test_every_bad_item_is_named_up_to_a_limit(served: Served) -> None:
    answer = problem(send(served, json.dumps({"inputs": [1, "a", 2, None]})), 422)
    assert [error["field"] for error in answer["errors"]] == ["inputs[0]", "inputs[2]", "inputs[3]"]


@pytest.mark.parametrize("path", ["/classify", "/qa"])
def test_only_some_of_many_unknown_keys_are_named(served: Served, path: str) -> None:
    unknown = {f"key{number}": 1 for number in range(5000)}
    document = {"inputs": OK_QUESTION | unknown} if path == "/qa" else {"inputs": "a"} | unknown
    assert len(problem(send(served, json.dumps(document), path), 422)["errors"]) == 16


@pytest.mark.parametrize(
    ("path", "inputs", "parameters"),
    [
        ("tag", [1] * 30_000, {}),
        ("tag", [[1] * 30_000], {"is_split_into_words": True}),
        ("zero-shot", "a", {"candidate_labels": [1] * 30_000}),
    ],
)
def test_only_a_few_of_many_bad_items_become_errors(
    served: Served, monkeypatch: pytest.MonkeyPatch, path: str, inputs: object, parameters: object
) -> None:
    """An error for each of them would hold the event loop for a second."""
    found: list[object] = []
    relevant = request_models._relevant

    def noted(errors: list[ErrorDetails]) -> list[ErrorDetails]:
        found.extend(errors)
        return relevant(errors)

    monkeypatch.setattr("service.request_models._relevant", noted)
    document = json.dumps({"inputs": inputs, "parameters": parameters}, separators=(",", ":"))
    answer = problem(send(served, document, f"/{path}"), 422)
    assert re.search(r"\[0\]|\.0", answer["errors"][0]["field"]) and len(found) < 100


def test_a_short_request_that_expands_too_much_is_422(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.size.MAX_ANSWERED", 2000)
    answer = problem(served.post("/fill-mask", ["a b c d e f [MASK]"] * 8, top_k=100), 422)
    assert "more than 2000 tokens of text; send fewer texts, or lower top_k" in answer["detail"]
    monkeypatch.setattr("service.keeper.MAX_LOGITS", 3000)
    answer = problem(served.post("/fill-mask", ["[MASK] " * 5] * 8), 422)
    assert "at most 3000 are kept at a time; send fewer texts or masks" in answer["detail"]
    assert served.post("/fill-mask", "[MASK]").status_code == 200 and served.service.engine._logits == 0
    monkeypatch.undo()
    monkeypatch.setattr("models.qa.MAX_SPANS", 5000)
    question = {"question": "who?", "context": "a " * 2000}
    answer = problem(served.post("/qa", question, max_answer_len=15), 422)
    assert answer["errors"][0]["field"] == "parameters.max_answer_len" and "pass 2 or less" in answer["detail"]
    assert served.post("/qa", question, max_answer_len=2).status_code == 200


def test_more_tokens_than_may_ever_wait_is_422(served: Served) -> None:
    document = {"inputs": [{"question": "who?", "context": "a " * 2499}] * 8, "parameters": {"doc_stride": 40}}
    answer = problem(send(served, json.dumps(document), "/qa"), 422)
    assert "20000" in answer["detail"] and answer["errors"][0]["field"] == "inputs"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/classify/sentimant", "did you mean sentiment?"),
        ("/classify/SENTIMENT", "did you mean sentiment?"),
        ("/classify/sentiment/", "did you mean /classify/sentiment?"),
        ("/classify/nothing-like-it", "sentiment, topic"),
        ("/classify/ner", "/tag/ner"),
        ("/pair/%00%0d%0a", "nli, nsp"),
        ("/classify/" + "x" * 3000, "sentiment"),
    ],
)
def test_a_head_that_does_not_exist_is_404_and_names_those_that_do(served: Served, path: str, says: str) -> None:
    assert says in problem(send(served, '{"inputs": "a"}', path), 404)["detail"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/clasify", "/classify"),
        ("/classify/", "did you mean /classify?"),
        ("/Classify", "did you mean /classify?"),
        ("/heads/sentiment/", "did you mean /heads/sentiment?"),
        ("/zzz", "/docs"),
        ("/heads/x", "sentiment"),
    ],
)
def test_a_path_that_does_not_exist_is_404(served: Served, path: str, says: str) -> None:
    assert says in problem(served.client.get(path), 404)["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/classify", "POST"),
        ("PUT", "/qa/qa", "POST"),
        ("PUT", "/heads", "GET, POST"),
        ("POST", "/metrics", "GET"),
        ("DELETE", "/health/live", "GET"),
    ],
)
def test_another_method_is_405_and_names_the_right_one(served: Served, method: str, path: str, allowed: str) -> None:
    response = served.client.request(method, path)
    assert allowed in problem(response, 405)["detail"] and allowed in response.headers["Allow"]


@pytest.mark.parametrize("path", ["/", "/heads", "/health/live", "/health/ready", "/metrics", "/openapi.json"])
def test_every_get_route_answers_head_too(served: Served, path: str) -> None:
    response = served.client.head(path)
    assert response.status_code == 200 and response.content == b"" and "X-Request-Id" in response.headers
    assert served.client.head("/classify").status_code == 405


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Authorization", ["Bearer a", "Bearer b"]),
        ("Content-Type", ["application/json", "text/plain"]),
        ("Content-Encoding", ["identity", "gzip"]),
        ("X-Deadline-Ms", ["1000", "soon"]),
        ("X-Bundle", ["tiny/1.0.0", "tiny/2.0.0"]),
    ],
)
@pytest.mark.parametrize("turn", [1, -1])
def test_a_header_with_one_value_that_is_sent_twice_is_400(
    served: Served, name: str, values: list[str], turn: int
) -> None:
    """The service and a proxy in front could read different ones."""
    headers = [(name, value) for value in values[::turn]]
    problem_400 = problem(served.client.post("/classify", json={"inputs": "a"}, headers=headers), 400)
    assert problem_400["errors"] == [{"field": name, "message": f"the request has 2 headers {name}; send one"}]


@pytest.mark.parametrize("hosts", [b"Host: x\r\nHost: evil.example\r\n", b"Host: evil.example\r\nHost: x\r\n"])
def test_two_hosts_are_400(served: Served, hosts: bytes) -> None:
    with connected(served) as connection:
        answer = ask(connection, b"POST /classify HTTP/1.1\r\n" + hosts + LENGTH + BODY)
    assert problem(answer, 400)["detail"] == "the request has 2 headers Host; send one"


def test_headers_with_several_values_may_be_sent_several_times(served: Served) -> None:
    headers = [("X-Forwarded-For", "10.0.0.1"), ("X-Forwarded-For", "10.0.0.2"), ("Accept", "a/b"), ("Accept", "*/*")]
    assert served.client.post("/classify", json={"inputs": "a"}, headers=headers).status_code == 200


@pytest.mark.parametrize("value", ["0", "-5", "1.5", "soon", "9" * 40, "¹"])
def test_a_deadline_that_makes_no_sense_is_400(served: Served, value: str) -> None:
    headers = {b"X-Deadline-Ms": value.encode()}
    response = served.client.post("/classify", json={"inputs": "a"}, headers=headers)
    assert problem(response, 400)["errors"][0]["field"] == "X-Deadline-Ms"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "parameters", "text", "question", "context", "top_k", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/classify", "/pair", "/fill-mask", "/tag", "/qa"]),
    document=st.dictionaries(st.sampled_from(["inputs", "parameters"]), json_values, min_size=1) | json_values,
)
def test_no_json_value_breaks_the_service(served: Served, path: str, document: object) -> None:
    assert send(served, json.dumps(document), path).status_code in {200, 400, 422}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_service(served: Served, body: bytes) -> None:
    assert send(served, body).status_code in {400, 422}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/classify", "/fill-mask", "/tag"]), text=st.text(st.characters(), max_size=60))
def test_no_text_breaks_the_service(served: Served, path: str, text: str) -> None:
    inputs = text + "[MASK]" if path == "/fill-mask" else text
    expected = {400} if re.search("[\ud800-\udfff]", text) else {200, 422}
    assert send(served, json.dumps({"inputs": inputs}), path).status_code in expected
