"""If this breaks, a guard reads another answer than its client expects, or padding hides an attack from it."""

import re
from typing import Any

import httpx
import numpy as np
import pytest

from service.guards import LITELLM
from service.vllm import LeastSafe
from tests.service.serving import Served, serving
from tests.service.test_openapi import document as document
from tests.service.test_routes import TEXT, computed, same

DETECTOR = "/api/v1/text/contents"
LONG = "the cat sat on the mat. " * 40
LABELS = ["negative", "positive"]


def detect(served: Served, *contents: str, head: str = "sentiment", **parameters: Any) -> Any:
    body = {"contents": contents, "detector_params": parameters}
    response = served.client.post(DETECTOR, json=body, headers={"detector-id": head})
    assert response.status_code == 200, response.text
    return response.json()


def guard(served: Served, *texts: str, **parameters: Any) -> Any:
    response = served.client.post(LITELLM, json=litellm(texts=texts, additional_provider_specific_params=parameters))
    assert response.status_code == 200, response.text
    return response.json()


def litellm(**keys: Any) -> dict[str, Any]:
    """Return a body as LiteLLM 1.110.2 sends it."""
    unused = ("litellm_trace_id", "structured_messages", "images", "tools", "tool_calls", "request_headers")
    return dict.fromkeys(unused) | {
        "input_type": "request",
        "litellm_call_id": None,
        "texts": None,
        "request_data": {"user_api_key_alias": "dev"},
        "litellm_version": "1.110.2",
        "additional_provider_specific_params": {},
        "model": "gpt-4",
        **keys,
    }


def scores(served: Served, text: str, **parameters: Any) -> dict[str, float]:
    return {each["label"]: each["score"] for each in served.answer("/classify/sentiment", [text], **parameters)[0]}


# ---- detectors of FMS Guardrails ------------------------------------------------------------------------------------


def test_labels_of_a_text_are_detections(served: Served) -> None:
    expected = [
        {"start": 0, "end": len(TEXT), "text": TEXT, "detection": label, "detection_type": label, "score": score}
        for label, score in scores(served, TEXT).items()
    ]
    assert same(detect(served, TEXT, "", threshold=0.0), [expected, []])
    assert same(detect(served, TEXT), [expected[:1]])  # from 0.5
    assert same(detect(served, TEXT, threshold=0.0, safe_labels=["POSITIVE"]), [keep(expected, "negative")])
    assert same(detect(served, TEXT, threshold=0.0, blocked_labels=["positive"]), [keep(expected, "positive")])
    assert detect(served, TEXT, threshold=1.0) == [[]]


def keep(found: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    return [each for each in found if each["detection"] == label]


def test_entities_are_detections(served: Served) -> None:
    spans = served.answer("/tag/ner", TEXT)
    assert spans
    expected = [
        {name: span[name] for name in ("start", "end", "score")}
        | {"text": span["word"], "detection": span["entity_group"], "detection_type": span["entity_group"]}
        for span in spans
    ]
    assert same(detect(served, TEXT, " ", head="ner"), [expected, []])
    assert same(detect(served, TEXT, head="ner", blocked_labels=["PER"]), [keep(expected, "PER")])


def test_a_request_without_a_detector_is_for_the_default_head(served: Served) -> None:
    # As NeMo Guardrails 0.24.1 sends it.
    response = served.client.post(DETECTOR, json={"contents": [TEXT], "detector_params": {"threshold": 0.5}})
    assert response.json() == detect(served, TEXT)


def test_the_orchestrator_can_read_errors(served: Served, document: dict[str, Any]) -> None:
    wrong: list[tuple[dict[str, str], Any, int, str]] = [
        ({"detector-id": "qa"}, {"contents": ["a"]}, 404, "head 'qa' is not for /classify"),
        ({"detector-id": "none"}, {"contents": ["a"]}, 404, "there is no head 'none'"),
        ({}, {"contents": []}, 400, "contents"),
        ({}, {"contents": ["a", "\u200b"]}, 422, "contents[1]:"),
        ({}, {"contents": ["a", "a" * 5001]}, 422, "contents[1]: has 5001 characters"),
        ({}, {"contents": ["a"] * 9}, 422, "contents: has 9 items"),
        ({}, {"contents": ["a"], "detector_params": {"treshold": 0.5}}, 400, "treshold"),
        ({}, {"contents": ["a"], "detector_params": {"blocked_labels": ["bad"]}}, 422, "has 'bad', but head"),
    ]
    for headers, body, status, says in wrong:
        response = served.client.post(DETECTOR, json=body, headers=headers)
        answer = response.json()
        assert (response.status_code, answer["code"], answer["message"]) == (status, status, answer["detail"])
        assert says in answer["detail"]
    assert {"code", "message"} <= set(document["components"]["schemas"]["DetectorFailure"]["required"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (1, "input is the number 1, but must be a text or a list"),
        ({"str": 1}, "input is an object, but must be a text or a list"),
        (["a", 2], "input[1] is the number 2, but must be a text"),
        ([["a"]], "input[0] is a list, but must be a text"),
        (None, "input is null, but must be a text or a list"),
    ],
)
def test_an_input_of_neither_form_is_refused_by_the_nearest_one(served: Served, given: object, says: str) -> None:
    response = served.client.post("/classify", json={"input": given})
    assert (response.status_code, response.json()["detail"]) == (400, says)


def test_padding_hides_nothing_from_a_guard(served: Served) -> None:
    found = detect(served, LONG, threshold=0.0)
    everywhere = scores(served, LONG, truncation="windows")
    assert same({each["detection"]: each["score"] for each in found[0]}, everywhere)
    assert not same(everywhere, scores(served, LONG))
    cut = detect(served, LONG, threshold=0.0, truncation="right")
    assert same({each["detection"]: each["score"] for each in cut[0]}, scores(served, LONG))
    small = detect(served, LONG, threshold=0.0, max_length=16)
    expected = scores(served, LONG, truncation="windows", max_length=16)
    assert same({each["detection"]: each["score"] for each in small[0]}, expected)


# ---- vLLM -----------------------------------------------------------------------------------------------------------


def vllm(served: Served, text: Any, **rest: Any) -> Any:
    response = served.client.post("/classify", json={"model": "sentiment", "input": text, **rest})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("text", [TEXT, [TEXT, "The dog slept."]])
def test_vllm_classifies(served: Served, text: Any) -> None:
    texts = [text] if isinstance(text, str) else text
    answer = vllm(served, text, user="somebody")
    assert (answer["object"], answer["model"]) == ("list", "sentiment") and answer["id"] and answer["created"]
    assert answer["usage"]["prompt_tokens"] > 0
    for index, (one, found) in enumerate(zip(texts, answer["data"], strict=True)):
        expected = scores(served, one)
        probs = [expected[label] for label in LABELS]
        best = max(expected, key=lambda label: expected[label])
        assert same(found, {"index": index, "label": best, "probs": probs, "num_classes": 2})


def test_vllm_names_a_head_or_means_the_default(served: Served) -> None:
    topic = served.client.post("/classify", json={"model": "topic", "input": TEXT})
    assert topic.json()["data"][0]["num_classes"] == 4
    assert served.sample("requests_total", route="/classify", head="topic", status="200") > 0
    default = served.client.post("/classify", json={"input": TEXT}).json()
    assert default["model"] == "sentiment"


def test_vllm_cuts_where_it_is_told_to(served: Served) -> None:
    for given, parameters in ((-1, {}), (16, {"max_length": 16})):
        expected = scores(served, LONG, **parameters)
        found = vllm(served, LONG, truncate_prompt_tokens=given)["data"][0]["probs"]
        assert same(found, [expected[label] for label in LABELS])
    raw = vllm(served, TEXT, use_activation=False)["data"][0]["probs"]
    logits = scores(served, TEXT, function_to_apply="none")
    assert same(raw, [logits[label] for label in LABELS])


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model": "none", "input": "a"}, 404, "there is no head 'none' for /classify"),
        ({"model": "sentiment", "input": 1}, 400, "input"),
        ({"model": "sentiment", "input": []}, 422, "input: has 0 items"),
        ({"model": "sentiment", "input": ["a"] * 9}, 422, "input: has 9 items"),
        ({"model": "sentiment", "input": "a" * 5001}, 422, "input: has 5001 characters"),
        ({"model": "sentiment", "input": " "}, 422, "input: ' ' has no visible character"),
        ({"model": "sentiment", "input": ["a", " "]}, 422, "input[1]: ' ' has no visible character"),
        ({"input": "a", "truncate_prompt_tokens": 2}, 422, "truncate_prompt_tokens: is 2, but"),
        ({"model": "sentiment", "input": "a", "inputs": "a"}, 422, "model: is unknown"),
        ({"model": "sentiment"}, 422, "inputs: is missing"),
    ],
)
def test_vllm_is_refused_in_sentences(served: Served, body: Any, status: int, says: str) -> None:
    response = served.client.post("/classify", json=body)
    assert response.status_code == status and says in response.json()["detail"], response.text


def test_other_routes_take_only_inputs(served: Served) -> None:
    for path in ("/classify/sentiment", "/tag", "/pair"):
        assert served.client.post(path, json={"input": "a"}).status_code == 422


def test_the_least_safe_window_answers(served: Served) -> None:
    with serving(*served.service.settings.bundles, lanes=1, safe_labels=" Negative ,x") as guarded:
        found = vllm(guarded, LONG)["data"][0]
        worst = scores(guarded, LONG, truncation="windows")["positive"]
        assert same(found["probs"], [1 - worst, worst])
        assert detect(guarded, LONG, threshold=0.0)[0][0]["detection"] == "positive"
        assert len(detect(guarded, LONG, threshold=0.0)[0]) == 1
    task: Any = served.service.heads.by_name["sentiment"].task
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [9.0, 0.0]], dtype=np.float32)
    for safe, rows in ((("negative",), slice(1, 2)), (("positive",), slice(2, 3)), ((), slice(0, 3))):
        parameters = task.parse_parameters({})
        guarded_task: Any = LeastSafe(task, safe)
        expected = task.decode(None, logits[rows], parameters)
        assert guarded_task.decode(None, logits, parameters) == expected


# ---- LiteLLM --------------------------------------------------------------------------------------------------------


def test_a_classifier_blocks(served: Served) -> None:
    best = served.answer("/classify/sentiment", TEXT)[0][0]
    answer = guard(served, "", TEXT)
    assert answer["action"] == "BLOCKED"
    reason = f"sentiment finds {best['label']} in texts[1], with a score of {best['score']:.2f}"
    assert answer["blocked_reason"] == reason
    for harmless in ({"threshold": 1.0}, {"safe_labels": LABELS}, {"threshold": 0.99, "heads": ["topic"]}):
        assert guard(served, "", TEXT, **harmless) == {"action": "NONE"}
    assert guard(served, LONG, threshold=0.0, blocked_labels=["positive"])["action"] == "BLOCKED"


@pytest.mark.parametrize("texts", [None, [], ["", " \n"]])
def test_an_empty_text_has_no_findings(served: Served, texts: Any) -> None:
    response = served.client.post(LITELLM, json=litellm(texts=texts, images=["data:image/png;base64,AA"]))
    assert response.json() == {"action": "NONE"}


def test_a_tagger_replaces_entities_by_numbers_that_are_the_same_in_all_texts(served: Served) -> None:
    texts = [TEXT, "", "A dog, a ship and the sea."]
    answer = guard(served, *texts, heads=["ner"])
    assert answer["action"] == "GUARDRAIL_INTERVENED" and answer["texts"][1] == ""
    spans = [span for text in texts if text for span in served.answer("/tag", text, redact=True)["spans"]]
    names = re.findall(r"\[\w+_\d+\]", " ".join(answer["texts"]))
    pairs = {(name, span["entity_group"], span["word"]) for name, span in zip(names, spans, strict=True)}
    assert len(pairs) == len({name for name, _, _ in pairs}) == len({(entity, word) for _, entity, word in pairs})
    assert all(name.startswith(f"[{entity}_") for name, entity, _ in pairs)
    words = {name: word for name, _, word in pairs}
    restored = [re.sub(r"\[\w+_\d+\]", lambda found: words[found[0]], hidden) for hidden in answer["texts"]]
    assert restored == texts


def test_heads_work_together(served: Served) -> None:
    assert guard(served, TEXT, heads=["ner", "sentiment"])["action"] == "BLOCKED"
    both = guard(served, TEXT, heads=["ner", "sentiment"], safe_labels=LABELS)
    assert both == guard(served, TEXT, heads=["ner"])


def test_litellm_is_refused_in_sentences(served: Served) -> None:
    def refused(status: int, **keys: Any) -> str:
        response: httpx.Response = served.client.post(LITELLM, json=litellm(**keys))
        assert response.status_code == status, response.text
        return str(response.json()["detail"])

    assert "there is no head 'none'" in refused(
        404, texts=["a"], additional_provider_specific_params={"heads": ["none"]}
    )
    assert "texts[1]: has 5001" in refused(422, texts=["a", "a" * 5001])
    assert "treshold" in refused(400, texts=["a"], additional_provider_specific_params={"treshold": 0.1})
    wrong = {"blocked_labels": ["bad"]}
    sentence = refused(422, texts=["a"], additional_provider_specific_params=wrong)
    assert sentence.startswith("additional_provider_specific_params.blocked_labels: has 'bad'")


def test_the_model_in_the_answer_is_the_head_that_guards(served: Served) -> None:
    expected = computed(served, "sentiment", LONG, truncation="windows")
    found = detect(served, LONG, threshold=0.0)[0]
    assert same([each["score"] for each in found], [each["score"] for each in expected])
