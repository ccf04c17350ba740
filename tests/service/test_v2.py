"""If this breaks, a client of the Open Inference Protocol gets another answer than from the task's own route."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.service.infer import INFER, KSERVE_ID, LABELS, VERSION, infer, outputs, refused, tensor, tensors
from tests.service.serving import Served
from tests.service.test_routes import HEADS, INPUTS, QUESTION, TEXT, same


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(min_size=1, max_size=60), other=st.text(min_size=1, max_size=60), head=st.sampled_from(HEADS))
def test_json_is_what_the_route_of_the_task_answers(
    served: Served, text: str, other: str, head: tuple[str, str]
) -> None:
    task, model = head
    one: Any = text + " [MASK]" if task == "fill-mask" else text
    if isinstance(INPUTS[task], dict):
        one = dict(zip(INPUTS[task], (text, other), strict=True))
    expected = served.post(f"/{task}/{model}", one)
    response = served.client.post(f"/v2/models/{model}/infer", json={"inputs": tensors(task, one)})
    assert response.status_code == expected.status_code
    if expected.status_code == 200:
        (found,) = outputs(response)["json"]
        assert found.encode() == expected.content
    else:
        told = refused(response, expected.status_code)
        assert told.partition(": ")[2] == expected.json()["detail"].partition(": ")[2]


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_items_are_answered_in_order(served: Served, task: str, head: str) -> None:
    first = INPUTS[task]
    second = first.replace("mat", "hat") if isinstance(first, str) else first | dict.fromkeys(first, "The war at sea.")
    found = infer(served, head, *tensors(task, first, second))
    expected = [served.answer(f"/{task}/{head}", each) for each in (first, second)]
    assert same([json.loads(text) for text in found["json"]], expected)


def test_classifiers_tell_the_best_label_and_all_scores(served: Served) -> None:
    texts = ["The war at sea.", "a law", "art"]
    wanted = [{"name": name} for name in ("scores", "label", "score")]
    found = infer(served, "topic", tensor(*texts), outputs=wanted)
    assert list(found) == ["scores", "label", "score"]
    for number, labels in enumerate(served.answer("/classify/topic", texts)):
        assert found["label"][number] == labels[0]["label"] and abs(found["score"][number] - labels[0]["score"]) < 1e-6
        by_label = {each["label"]: each["score"] for each in labels}
        assert np.allclose(found["scores"][4 * number : 4 * number + 4], [by_label[label] for label in LABELS])


def test_scores_are_of_all_labels_whatever_the_parameters_leave_out(served: Served) -> None:
    wanted = [{"name": "scores"}, {"name": "json"}]
    found = infer(served, "topic", tensor(TEXT), outputs=wanted, parameters={"top_k": 1})
    assert len(found["scores"]) == 4 and abs(sum(found["scores"]) - 1) < 1e-6
    assert json.loads(found["json"][0]) == served.answer("/classify/topic", TEXT, top_k=1)
    too_many = served.client.post(INFER, json={"inputs": [tensor(TEXT)], "outputs": wanted, "parameters": {"top_k": 9}})
    assert "4 labels" in refused(too_many, 422)


def test_fill_mask_tells_the_best_token_of_the_first_mask(served: Served) -> None:
    texts = ["The [MASK] sat.", "The [MASK] sat on the [MASK]."]
    found = infer(served, "fill-mask", tensor(*texts), parameters={"top_k": 2})
    one, two = served.answer("/fill-mask", texts, top_k=2)
    assert found["token"] == [one[0]["token_str"], two[0][0]["token_str"]]
    assert same(found["score"], [one[0]["score"], two[0][0]["score"]])


@pytest.mark.parametrize("top_k", [1, 2])
def test_qa_tells_the_best_answer(served: Served, top_k: int) -> None:
    found = infer(served, "qa", *tensors("qa", QUESTION), parameters={"top_k": top_k})
    best = served.answer("/qa", QUESTION)
    assert found["answer"] == [best["answer"]] and found["start"] == [best["start"]] and found["end"] == [best["end"]]
    assert same(found["score"], [best["score"]])


def test_the_response_names_what_answered(served: Served) -> None:
    body = {"id": KSERVE_ID, "model_name": "other", "inputs": [tensor(TEXT)]}
    for place in ("", f"/versions/{VERSION}"):
        response = served.client.post(f"/v2/models/topic{place}/infer", json=body)
        answer = response.json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("topic", VERSION, KSERVE_ID)
        assert [output["shape"] for output in answer["outputs"]] == [[1]] * 3
        assert response.headers["X-Bundle"] == f"tiny/{VERSION}" and "Server-Timing" in response.headers
    assert "id" not in served.client.post(INFER, json={"inputs": [tensor(TEXT)]}).json()


def test_mlservers_string_codec(served: Served) -> None:
    """StringCodec.encode_input sends [n, 1] and reads it back; data may be nested as the shape is."""
    kind = {"content_type": "str"}
    flat = {"name": "text", "shape": [2, 1], "datatype": "BYTES", "parameters": kind, "data": ["a b", "héllo"]}
    wanted = [{"name": name} for name in ("label", "scores")]
    for data in (["a b", "héllo"], [["a b"], ["héllo"]]):
        body = {"parameters": kind, "inputs": [flat | {"data": data}], "outputs": wanted}
        label, scores = served.client.post(INFER, json=body).json()["outputs"]
        assert (label["shape"], scores["shape"]) == ([2, 1], [2, 4])
        assert label["data"] == infer(served, "topic", tensor("a b", "héllo"))["label"] and len(scores["data"]) == 8


def test_parameters_of_the_protocol_reach_no_task(served: Served) -> None:
    reserved: dict[str, Any] = {
        "sequence_id": 1,
        "sequence_start": True,
        "sequence_end": False,
        "priority": 1,
        "timeout": 30_000_000,
    }
    reserved |= {"headers": {"a": "b"}, "binary_data_output": False, "content_type": "str", "triton_x": "y"}
    found = infer(served, "topic", tensor(TEXT), parameters=reserved | {"top_k": 1})
    assert json.loads(found["json"][0]) == served.answer("/classify/topic", TEXT, top_k=1)


def test_a_timeout_in_microseconds_is_a_deadline(served: Served) -> None:
    late = served.client.post(INFER, json={"inputs": [tensor(TEXT)], "parameters": {"timeout": 1}})
    assert "deadline of 1e-06 s passed" in refused(late, 504)
    for timeout in (0, None, 10**400, 60_000_000):
        infer(served, "topic", tensor(TEXT), parameters={"timeout": timeout})


def test_all_items_are_one_job(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    submit, jobs = served.service.engine.submit, []

    def counted(*arguments: Any) -> Any:
        jobs.append(submit(*arguments))
        return jobs[-1]

    monkeypatch.setattr(served.service.engine, "submit", counted)
    infer(served, "topic", tensor(*["a text"] * 8), outputs=[{"name": "scores"}], parameters={"top_k": 1})
    assert len(jobs) == 1


@pytest.mark.parametrize("count", [0, 9])
@pytest.mark.parametrize(("task", "head"), HEADS)
def test_as_many_items_as_on_the_route_of_the_task(served: Served, task: str, head: str, count: int) -> None:
    body = {"inputs": [{**each, "shape": [count]} for each in tensors(task, *[INPUTS[task]] * max(count, 1))]}
    for each in body["inputs"]:
        each["data"] = each["data"][:count]
    assert f"has {count} items; send " in refused(served.client.post(f"/v2/models/{head}/infer", json=body), 422)
