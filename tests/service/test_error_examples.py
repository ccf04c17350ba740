"""If this breaks, the OpenAPI document shows requests that fail, or answers that the service does not give."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.errors import EXAMPLES
from service.reload import BUSY
from service.settings import STARTER
from tests.conftest import FIXTURES
from tests.service.bundles import HEADS, write_bundle
from tests.service.serving import Served, serving

CROSS = {"cross": HeadSpec("pair", ["score"], problem_type="regression")}
UNSENT = {401, 403, 404, 408, 409, 413, 429, 500, 503}
"""Errors that no small request gets, or none with these settings."""
CONTROL = "/v2/repository/models/"
WITH_KEY = {"api_key": "s3cret", "model_control": "explicit"}


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("examples") / "tiny", tokenizer, HEADS | CROSS)


@pytest.fixture(scope="module", params=["open", "key"])
def served(request: pytest.FixtureRequest, bundle: Path) -> Iterator[Served]:
    given: dict[str, Any] = WITH_KEY if request.param == "key" else {}
    with serving(bundle, lanes=1, max_body_bytes=100_000, **given) as served:
        yield served


def document_of(served: Served) -> dict[str, Any]:
    document: dict[str, Any] = served.client.get("/openapi.json").json()
    return document


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def send(served: Served, method: str, route: str, operation: dict[str, Any], **sent: Any) -> httpx.Response:
    """Send the example of a route, with the changes in `sent`."""
    media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = sent.get("body", json.dumps(media["example"]) if media else None)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    url = sent.get("path", route)
    for parameter in operation["parameters"]:
        url = url.replace("{" + parameter["name"] + "}", str(parameter.get("example")))
    return served.client.request(method.upper(), url, content=body, headers=headers | sent.get("headers", {}))


def content_of(response: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the media type of a response, and what the document says of it."""
    media: str = next(media for media in response["content"] if "octet-stream" not in media)
    return media, response["content"][media]


def constant(answer: Any) -> Any:
    """Return an error without what differs from request to request: its id, and where a deadline passed."""
    written = re.sub(r"passed in \w+", "passed in queue", json.dumps(answer))
    return json.loads(re.sub(r'"request_id": "\w+"', '"request_id": ""', written))


def test_each_error_is_what_its_request_gets(served: Served) -> None:
    wrong, seen = [], set()
    for method, path, operation in operations(document_of(served)):
        for status, response in operation["responses"].items():
            sent = response.get("x-request")
            if status == "200" or sent is None:
                assert status == "200" or int(status) in UNSENT or path.startswith(CONTROL), (path, status)
                continue
            answer = send(served, method, path, operation, **sent)
            if status == "504" and answer.status_code in (
                200,
                408,
            ):  # a millisecond was enough, or not even for the body
                continue
            seen.add(int(status))
            media, content = content_of(response)
            promised = (status, media, constant(content["example"]))
            got = (str(answer.status_code), answer.headers["Content-Type"], constant(answer.json()))
            wrong += [(method, path, promised, got)] if promised != got else []
    assert not wrong, "\n".join(map(str, wrong))
    assert seen >= {400, 404, 415, 422} | ({401} if served.service.settings.asks_for_key else {403})


def test_a_body_that_is_too_large_gets_what_the_document_says(served: Served) -> None:
    document = document_of(served)
    for path in ("/classify", "/v2/models/{model}/infer", "/api/v1/text/contents"):
        operation = document["paths"][path]["post"]
        answer = send(served, "post", path, operation, body=" " * 100_001)
        _, content = content_of(operation["responses"]["413"])
        assert constant(answer.json()) == constant(content["example"])


def test_examples_that_no_single_request_provokes_match_the_service() -> None:
    assert {409: BUSY.sentence}.items() <= {error.status: error.detail for error in EXAMPLES}.items()


def shape(answer: Any) -> Any:
    """Return the keys and types of an answer; of a list, those of its first item."""
    if isinstance(answer, dict):
        return {key: shape(value) for key, value in answer.items()}
    return [shape(each) for each in answer[:1]] if isinstance(answer, list) else type(answer)


@pytest.fixture(scope="module")
def starter(request: pytest.FixtureRequest) -> Iterator[Served]:
    with serving(STARTER, lanes=1, **WITH_KEY) as served:  # type: ignore[arg-type]
        yield served


def near(found: Any, promised: Any) -> bool:
    """Compare answers; scores may differ a little from CPU to CPU."""
    if isinstance(promised, float):
        return bool(abs(found - promised) < 0.02)
    if isinstance(promised, dict):
        return found.keys() == promised.keys() and all(near(found[key], each) for key, each in promised.items())
    if isinstance(promised, list):
        return len(found) == len(promised) and all(map(near, found, promised))
    return bool(found == promised)


def test_each_example_is_what_the_starter_answers(starter: Served) -> None:
    wrong = []
    for method, path, operation in operations(document_of(starter)):
        if method == "get" or "rerank" in path or path.endswith("/unload"):
            continue
        _, content = content_of(operation["responses"]["200"])
        answer = send(starter, method, path, operation)
        found = answer.json()[:1] if path.endswith("/index") else answer.json()
        wrong += [] if near(found, content["example"]) else [(path, content["example"], answer.text)]
    assert not wrong, "\n".join(map(str, wrong))


def test_the_examples_of_a_ranking_and_of_unloading_have_the_shape_of_answers(bundle: Path, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", Tokenizer.read(FIXTURES), {"other": HEADS["topic"]}, "other")
    with serving(bundle, other, lanes=1, **WITH_KEY) as served:  # type: ignore[arg-type]
        for path in ("/rerank", "/rerank/{head}", CONTROL + "{name}/unload"):
            operation = document_of(served)["paths"][path]["post"]
            answer = send(served, "post", path, operation)
            _, content = content_of(operation["responses"]["200"])
            assert (answer.status_code, shape(answer.json())) == (200, shape(content["example"])), path
