"""If this breaks, some route takes numbers for probabilities, or one label for two."""

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import read_bundle
from models.classification import Classify
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.vllm import LeastSafe
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving
from tests.service.test_routes import TEXT, computed, same

HEADS = {
    "stars": HeadSpec("classify", ["score"], problem_type="regression"),
    "toxic": HeadSpec("classify", ["toxic"]),
    "topics": HeadSpec("classify", ["art", "law", "sea"], problem_type="multi_label_classification"),
    "strict": HeadSpec(
        "classify", ["art", "law"], {"threshold": {"art": 1.0}}, problem_type="multi_label_classification"
    ),
    "likeness": HeadSpec("pair", ["score"], problem_type="regression"),
}
FUNCTIONS = {"stars": "none", "toxic": "sigmoid", "topics": "sigmoid", "strict": "sigmoid", "likeness": "none"}
PAIR = {"text": "the cat", "text_pair": "a dog"}
DETECTOR, LITELLM = "/api/v1/text/contents", "/beta/litellm_basic_guardrail_api"


@pytest.fixture(scope="module")
def served(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle = write_bundle(tmp_path_factory.mktemp("kinds") / "tiny", tokenizer, HEADS)
    with serving(bundle, lanes=1) as served:
        yield served


@pytest.mark.parametrize("name", HEADS)
def test_each_kind_answers_by_its_function(served: Served, name: str) -> None:
    head = served.client.get(f"/heads/{name}").json()
    assert head["problem_type"] == HEADS[name].problem_type
    assert head["parameters"]["function_to_apply"] == FUNCTIONS[name]
    inputs: Any = PAIR if head["task"] == "pair" else TEXT
    expected = computed(served, name, inputs, function_to_apply=FUNCTIONS[name])
    for asked in ({}, {"function_to_apply": None}, {"function_to_apply": FUNCTIONS[name]}, {"top_k": None}):
        assert same(served.answer(f"/{head['task']}/{name}", [inputs], **asked), [expected])
    together = served.client.post("/heads", json={"inputs": inputs, "heads": [name]}).json()
    assert same(together[name], [expected])


def test_labels_of_which_several_may_hold_are_each_scored_alone(served: Served) -> None:
    bundle = read_bundle(served.service.settings.bundles[0])
    task = Classify(bundle.tokenizer, bundle.manifest.heads["topics"].spec, 64)
    logits = np.array([[0.5, -2.0, 3.0]], np.float32)
    found = task.decode(task.encode(TEXT, task.parse_parameters({})), logits, task.parse_parameters({}))
    expected = {"sea": 1 / (1 + np.exp(-3)), "art": 1 / (1 + np.exp(-0.5)), "law": 1 / (1 + np.exp(2))}
    assert {each["label"]: each["score"] for each in found} == pytest.approx(expected)


def test_protocols_answer_one_label_and_none_found(served: Served) -> None:
    one = served.answer("/classify/toxic", [TEXT])[0][0]
    body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]}
    asked = body | {"outputs": [{"name": name} for name in ("label", "score", "scores")]}
    for name, label in (("toxic", "toxic"), ("strict", "law")):
        outputs = served.client.post(f"/v2/models/{name}/infer", json=asked).json()["outputs"]
        assert [each["shape"] for each in outputs] == [[1], [1], [1, len(HEADS[name].labels)]]
        assert outputs[0]["data"] == [label]
    predictions = served.client.post("/v1/models/toxic:predict", json={"instances": [TEXT]}).json()["predictions"]
    assert same(predictions, [{"toxic": one["score"]}])
    vllm = served.client.post("/classify", json={"model": "toxic", "input": TEXT}).json()["data"][0]
    assert same(vllm["probs"], [one["score"]]) and vllm["num_classes"] == 1


def guarded(served: Served, head: str | None, **parameters: Any) -> httpx.Response:
    headers = {"detector-id": head} if head else {}
    return served.client.post(DETECTOR, json={"contents": [TEXT], "detector_params": parameters}, headers=headers)


def test_a_guard_needs_probabilities(served: Served) -> None:
    for name in ("stars", None):  # the first head of /classify
        refused = guarded(served, name)
        assert refused.status_code == 404
        assert "'stars' gives numbers, not probabilities, so it is no guard" in refused.json()["detail"]
    body = {"texts": [TEXT], "additional_provider_specific_params": {"heads": ["stars"]}}
    assert served.client.post(LITELLM, json=body).status_code == 404
    score = served.answer("/classify/toxic", [TEXT])[0][0]["score"]
    assert bool(guarded(served, "toxic").json()[0]) == (score >= 0.5)
    assert guarded(served, "toxic", threshold=score).json()[0][0]["detection"] == "toxic"


def test_a_guard_holds_labels_without_a_threshold_to_the_usual_one(served: Served) -> None:
    scores = {each["label"]: each["score"] for each in served.answer("/classify/strict", [TEXT], threshold=None)[0]}
    found = guarded(served, "strict").json()[0]
    assert [each["detection"] for each in found] == [label for label in ["law"] if scores[label] >= 0.5]


@pytest.mark.parametrize("spec", [HEADS["toxic"], HEADS["topics"]], ids=["one", "several"])
def test_the_least_safe_window_of_labels_that_do_not_compete(tokenizer: Tokenizer, spec: HeadSpec) -> None:
    task: Any = Classify(tokenizer, spec, 64)
    logits = np.array([[5.0, 9, 9], [-5.0, -9, -9], [1.0, 0, 0]], np.float32)[:, : len(spec.labels)]
    guard: Any = LeastSafe(task, spec.labels[:1])
    parameters = task.parse_parameters({})
    assert guard.decode(None, logits, parameters) == task.decode(None, logits[1:2], parameters)


def test_a_number_is_no_confidence(served: Served) -> None:
    before = served.sample("confidence_count", head="stars")
    served.answer("/classify/stars", [TEXT] * 3)
    assert served.sample("inputs_total", head="stars") >= 3
    assert served.sample("confidence_count", head="stars") == before
    served.answer("/classify/topics", [TEXT] * 3)
    assert served.sample("confidence_count", head="topics") >= 3
