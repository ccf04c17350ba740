"""If this breaks, KServe's default protocol answers otherwise than the routes of the tasks."""

from typing import Any

import pytest

from tests.service.infer import refused
from tests.service.serving import Served
from tests.service.test_routes import HEADS, INPUTS, TEXT


@pytest.mark.parametrize("colon", [":", "%3A"])
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_predictions_are_what_the_route_of_the_task_answers(served: Served, task: str, head: str, colon: str) -> None:
    instances = [INPUTS[task]] * 2
    response = served.client.post(f"/v1/models/{head}{colon}predict", json={"instances": instances})
    assert response.status_code == 200, response.text
    assert response.json() == {"predictions": by_label(served.answer(f"/{task}/{head}", instances), task)}


def by_label(answers: Any, task: str) -> Any:
    """Return the labels of each answer as an object."""
    if task not in ("classify", "pair"):
        return answers
    return [{each["label"]: each["score"] for each in answer} for answer in answers]


def test_parameters_are_those_of_the_task(served: Served) -> None:
    body = {"instances": [TEXT], "parameters": {"top_k": 1}}
    answer = served.client.post("/v1/models/topic:predict", json=body).json()
    assert answer == {"predictions": by_label(served.answer("/classify/topic", [TEXT], top_k=1), "classify")}


def test_readiness(served: Served) -> None:
    assert served.client.get("/v1/models/topic").json() == {"name": "topic", "ready": True}
    assert "'none'" in refused(served.client.get("/v1/models/none"), 404)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
def test_another_method_is_405_and_post_is_named(served: Served, method: str) -> None:
    response = served.client.request(method, "/v1/models/topic:predict")
    assert response.status_code == 405 and response.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "instances is missing"),
        ({"instances": "a"}, 400, "instances is a text"),
        ({"instances": ["a"], "inputs": []}, 400, "inputs is unknown; a request has instances, parameters"),
        ({"instances": ["a", 1]}, 422, "instances[1]: is the number 1, but must be a text"),
        ({"instances": ["a"], "parameters": {"topk": 1}}, 422, "parameters.topk: is not a parameter of classify"),
        ({"instances": []}, 422, "instances: has 0 items; send at least 1"),
    ],
)
def test_bad_input(served: Served, body: Any, status: int, says: str) -> None:
    assert says in refused(served.client.post("/v1/models/topic:predict", json=body), status)
    assert "'none'" in refused(served.client.post("/v1/models/none:predict", json=body), 404)


@pytest.mark.parametrize("count", [0, 9])
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_as_many_instances_as_on_the_route_of_the_task(served: Served, task: str, head: str, count: int) -> None:
    body = {"instances": [INPUTS[task]] * count}
    sentence = refused(served.client.post(f"/v1/models/{head}:predict", json=body), 422)
    assert sentence.startswith(f"instances: has {count} items; send ")
