"""If this breaks, the document promises what the service does not do, or the pages need the network."""

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.service.serving import Served
from tests.service.test_routes import INPUTS


@pytest.fixture(scope="session")
def document(served: Served) -> dict[str, Any]:
    document: dict[str, Any] = served.client.get("/openapi.json").json()
    return document


@pytest.fixture(scope="session")
def api(served: Served) -> Any:
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


GUARDS = ["/api/v1/text/contents", "/beta/litellm_basic_guardrail_api"]
INFERENCE_PROTOCOL = [
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/stats"),
    *(
        f"/v2/models/{{model}}{version}{rest}"
        for version in ("", "/versions/{version}")
        for rest in ("", "/ready", "/config", "/stats", "/infer")
    ),
    *("/v1/models/{model}", "/v1/models/{model}:predict"),
]
OPERATIONS = [
    *(("post", f"/{task}{head}") for task in INPUTS for head in ("", "/{head}")),
    *(("post", path) for path in [*GUARDS, "/explain", "/explain/{head}"]),
    *(("get", path) for path in ("/heads", "/heads/{head}", "/health/live", "/health/ready")),
    *(("post" if path.endswith(("/infer", ":predict")) else "get", path) for path in INFERENCE_PROTOCOL),
]
PROBLEM = ["type", "title", "status", "detail", "request_id", "errors"]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_generated_requests_get_what_the_document_promises(api: Any, method: str, path: str) -> None:
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy())
    def check(case: Any) -> None:
        case.headers.pop("X-Deadline-Ms", None)  # one millisecond is a fair request for 504
        case.headers.pop("X-Bundle", None)  # all that is generated is not loaded
        case.call_and_validate(checks=CHECKS)

    check()


@pytest.mark.parametrize("task", INPUTS)
def test_the_examples_work(served: Served, document: dict[str, Any], task: str) -> None:
    operation = document["paths"][f"/{task}"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    response = served.client.post(f"/{task}", json=example)
    assert response.status_code == 200, response.text
    promised = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert type(response.json()) is type(promised)
    assert set(operation["responses"]["200"]["headers"]) >= {
        name for name in ("Server-Timing", "X-Bundle", "X-Request-Id") if name in response.headers
    }


def test_the_example_of_the_inference_protocol_works(served: Served, document: dict[str, Any]) -> None:
    operation = document["paths"]["/v2/models/{model}/infer"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]
    response = served.client.post("/v2/models/sentiment/infer", json=example)
    assert response.status_code == 200, response.text
    promised = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert response.json().keys() == promised.keys()
    assert [each.keys() for each in response.json()["outputs"][:2]] == [each.keys() for each in promised["outputs"]]
    assert document["components"]["schemas"]["Failure"]["required"] == [*PROBLEM, "error"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', str(document).replace("'", '"')))
    assert names and names <= document["components"]["schemas"].keys()


def test_every_parameter_is_described_and_every_refusal_has_an_example(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert all(parameter["description"] for parameter in operation.get("parameters", [])), path
            refused = {status: each for status, each in operation["responses"].items() if status != "200"}
            assert refused or path == "/metrics", path
            for status, response in refused.items():
                assert all(each["example"] for each in response["content"].values()), (path, status)


def test_every_route_is_documented(document: dict[str, Any]) -> None:
    tasks = [f"/{task}{head}" for task in [*INPUTS, "zero-shot", "rerank", "explain"] for head in ("", "/{head}")]
    heads = ["/heads", "/heads/{head}", "/health/live", "/health/ready", "/metrics"]
    control = {f"/v2/repository/{path}" for path in ("index", "models/{name}/load", "models/{name}/unload")}
    assert set(document["paths"]) == {*tasks, *heads, *GUARDS, *INFERENCE_PROTOCOL, *control}


def test_everything_is_described(document: dict[str, Any]) -> None:
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    described = [parameter for operation in operations for parameter in operation["parameters"]]
    described += [
        each for schema in document["components"]["schemas"].values() for each in schema["properties"].values()
    ]
    assert described and all(each["description"] for each in described)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_each_error_has_its_example(document: dict[str, Any]) -> None:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            refused = {status: each for status, each in operation["responses"].items() if status != "200"}
            assert refused, path
            for status, response in refused.items():
                (content,) = response["content"].values()
                assert str(content["example"]["status"]) == status and content["example"]["detail"], path


def test_a_name_in_a_path_is_a_choice_of_what_is_served(document: dict[str, Any]) -> None:
    def choice(path: str, name: str) -> Any:
        (operation,) = document["paths"][path].values()
        return next(each for each in operation["parameters"] if each["name"] == name)["schema"]["enum"]

    assert choice("/pair/{head}", "head") == ["nli", "nsp"] and choice("/zero-shot/{head}", "head") == ["nli"]
    assert choice("/v2/models/{model}/versions/{version}", "version") == ["1.2.3"]
    assert len(choice("/heads/{head}", "head")) == len(choice("/v2/models/{model}/infer", "model")) == 7


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_nothing_from_elsewhere(served: Served, path: str) -> None:
    page = served.client.get(path)
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "http" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]
    for url in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        assert not url.startswith(("http:", "https:", "//")), url
        if not url.startswith("data:"):
            assert served.client.get(f"/{url}").status_code == 200, url


def test_the_playground_never_sets_markup_from_strings(served: Served) -> None:
    page = served.client.get("/").text
    for dangerous in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "onclick=", "style="):
        assert dangerous not in page
