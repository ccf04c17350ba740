"""If this breaks, clients of the Open Inference Protocol see heads that are not there, or cannot read why."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.infer import INFER, VERSION, infer, refused, tensor, tensors
from tests.service.serving import Served, serving
from tests.service.test_routes import HEADS, INPUTS, PAIR, TEXT


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "answer"), [("live", {"live": True}), ("ready", {"ready": True})])
def test_health(served: Served, method: str, path: str, answer: dict[str, bool]) -> None:
    response = served.client.request(method, f"/v2/health/{path}")
    assert response.status_code == 200 and response.headers["Content-Type"] == "application/json"
    assert method == "HEAD" or response.json() == answer


def test_what_is_not_ready_says_so(bundle: Path) -> None:
    with serving(bundle, lanes=1) as served:
        served.service.drain()
        assert served.client.get("/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/topic/ready", "/v1/models/topic"):
            assert refused(served.client.get(path), 503) == "draining"


def test_the_server(served: Served) -> None:
    about = served.client.get("/v2").json()
    assert about == {
        "name": "bertheads",
        "version": served.client.get("/openapi.json").json()["info"]["version"],
        "extensions": ["binary_tensor_data", "model_repository", "parameters"],
    }


@pytest.mark.parametrize("place", ["", f"/versions/{VERSION}"])
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_each_head_is_a_model(served: Served, task: str, head: str, place: str) -> None:
    about = served.client.get(f"/v2/models/{head}{place}").json()
    assert (about["name"], about["versions"], about["platform"]) == (head, [VERSION], "bertheads")
    assert about["parameters"] == {"task": task, "labels": served.client.get(f"/heads/{head}").json()["labels"]}
    names = list(INPUTS[task]) if isinstance(INPUTS[task], dict) else ["text"]
    assert about["inputs"] == [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in names]
    assert served.client.get(f"/v2/models/{head}{place}/ready").json() == {"name": head, "ready": True}
    assert served.client.get(f"/v2/models/{head}{place}/config").json()["name"] == head


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "topic",
            [("label", "BYTES", [-1]), ("score", "FP32", [-1]), ("scores", "FP32", [-1, 4]), ("json", "BYTES", [-1])],
        ),
        (
            "nsp",
            [("label", "BYTES", [-1]), ("score", "FP32", [-1]), ("scores", "FP32", [-1, 2]), ("json", "BYTES", [-1])],
        ),
        ("fill-mask", [("token", "BYTES", [-1]), ("score", "FP32", [-1]), ("json", "BYTES", [-1])]),
        ("ner", [("json", "BYTES", [-1])]),
        (
            "qa",
            [
                ("answer", "BYTES", [-1]),
                ("score", "FP32", [-1]),
                ("start", "INT64", [-1]),
                ("end", "INT64", [-1]),
                ("json", "BYTES", [-1]),
            ],
        ),
    ],
)
def test_the_outputs_of_a_model(served: Served, model: str, expected: list[Any]) -> None:
    about = served.client.get(f"/v2/models/{model}").json()
    assert [tuple(output.values()) for output in about["outputs"]] == expected
    shape = served.client.get(f"/v2/models/{model}/config").json()
    types = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT64": "TYPE_INT64"}
    assert [tuple(output.values()) for output in shape["output"]] == [(n, types[t], dims) for n, t, dims in expected]
    assert shape["max_batch_size"] == 0 and {each["data_type"] for each in shape["input"]} == {"TYPE_STRING"}


def test_statistics_count_what_was_inferred(served: Served) -> None:
    def told(path: str) -> dict[str, Any]:
        return {each["name"]: each for each in served.client.get(path).json()["model_stats"]}

    before = told("/v2/models/nsp/stats")["nsp"]
    infer(served, "nsp", *tensors("pair", PAIR, PAIR))
    for path in ("/v2/models/nsp/stats", f"/v2/models/nsp/versions/{VERSION}/stats", "/v2/models/stats"):
        after = told(path)["nsp"]
        assert after["inference_count"] == before["inference_count"] + 2 and after["version"] == VERSION
        for name, figures in after["inference_stats"].items():
            assert figures["count"] == before["inference_stats"][name]["count"] + 1
            assert figures["ns"] > before["inference_stats"][name]["ns"]
    assert list(told("/v2/models/stats")) == [head for _, head in HEADS]


@pytest.mark.parametrize("rest", ["", "/ready", "/config", "/stats", "/infer"])
def test_what_does_not_exist_is_404_and_names_what_does(served: Served, rest: str) -> None:
    method = "POST" if rest == "/infer" else "GET"
    unknown = refused(served.client.request(method, f"/v2/models/topik{rest}"), 404)
    assert "'topik'" in unknown and "sentiment, topic, nli" in unknown and "did you mean topic?" in unknown
    version = refused(served.client.request(method, f"/v2/models/topic/versions/7{rest}"), 404)
    assert "version '7' of topic" in version and VERSION in version


def test_other_errors_below_v2_are_readable_too(served: Served) -> None:
    assert "no /v2/nothing" in refused(served.client.get("/v2/nothing"), 404)
    assert "send POST" in refused(served.client.get(INFER), 405)
    assert "text/csv" in refused(served.client.post(INFER, content=b"{}", headers={"Content-Type": "text/csv"}), 415)
    assert "limit of 100000" in refused(served.client.post(INFER, content=b" " * 100_001), 413)
    assert "X-Deadline-Ms" in refused(served.client.post(INFER, json={}, headers={"X-Deadline-Ms": "0"}), 400)
    assert served.client.get("/v2nothing").headers["Content-Type"] == "application/problem+json"


@pytest.fixture(scope="module")
def named(bundle: Path) -> Iterator[Served]:
    with serving(bundle, lanes=1, api_key="s3cret", model_name="Mine") as named:
        yield named


def test_only_health_is_open_without_the_key(named: Served) -> None:
    assert httpx.get(f"{named.url}/v2/health/live").json() == {"live": True}
    assert httpx.get(f"{named.url}/v2/health/ready").json() == {"ready": True}
    for path in ("/v2", "/v2/models/topic/ready", "/v2/models/topic/infer", "/v2/healthy", "/v1/models/topic"):
        assert "there is no key" in refused(httpx.get(named.url + path), 401)


def test_the_first_head_has_one_more_name(named: Served) -> None:
    about = named.client.get("/v2/models/Mine").json()
    assert about == named.client.get("/v2/models/sentiment").json() | {"name": "Mine"}
    answer = named.client.post("/v2/models/Mine/infer", json={"inputs": [tensor(TEXT)]}).json()
    assert answer["model_name"] == "Mine" and answer["outputs"][2]["name"] == "json"
    assert (
        answer["outputs"]
        == named.client.post("/v2/models/sentiment/infer", json={"inputs": [tensor(TEXT)]}).json()["outputs"]
    )
    assert named.client.post("/classify/Mine", json={"inputs": TEXT}).status_code == 404
