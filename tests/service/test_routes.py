"""If this breaks, a route answers in another shape than clients expect, or differs from the model."""

import hashlib
from typing import Any

import numpy as np
import pytest

from models.bundle import read_bundle
from models.session import Session
from models.task_registry import TASKS
from tests.service.serving import Served

TEXT = "The cat sat on the mat, and the dog slept."
PAIR = {"text": "A man plays a guitar.", "text_pair": "Someone makes music."}
CURL = "application/x-www-form-urlencoded"  # what curl -d declares
QUESTION = {"question": "Where does Clara live?", "context": "Clara lives in Berlin. " * 3}
MASKED = "The [MASK] sat on the mat."
INPUTS: dict[str, Any] = {"classify": TEXT, "pair": PAIR, "fill-mask": MASKED, "tag": TEXT, "qa": QUESTION}
HEADS = [
    ("classify", "sentiment"),
    ("classify", "topic"),
    ("pair", "nli"),
    ("pair", "nsp"),
    ("fill-mask", "fill-mask"),
    ("tag", "ner"),
    ("qa", "qa"),
]


def computed(served: Served, head: str, inputs: Any, **parameters: Any) -> Any:
    """Answer without HTTP, queue and batches."""
    bundle = read_bundle(served.service.settings.bundles[0])
    spec = bundle.manifest.heads[head].spec
    task = TASKS[spec.task](bundle.tokenizer, spec, bundle.manifest.encoder.max_length)
    chosen = task.parse_parameters(parameters)
    encoded = task.encode(inputs if isinstance(inputs, str) else task.inputs.model_validate(inputs), chosen)
    logits = Session(bundle).run([(head, row) for row in encoded.rows])
    return task.decode(encoded, np.concatenate(logits), chosen)


def same(found: Any, expected: Any) -> bool:
    """Compare answers, scores to 1e-6."""
    if isinstance(expected, float):
        return bool(abs(found - expected) <= 1e-6)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


@pytest.mark.parametrize(("task", "head"), HEADS)
def test_each_head_answers_as_the_model_does(served: Served, task: str, head: str) -> None:
    expected = computed(served, head, INPUTS[task])
    assert same(served.answer(f"/{task}/{head}", [INPUTS[task]]), [expected])


@pytest.mark.parametrize("task", INPUTS)
def test_without_a_name_the_first_head_of_the_task_answers(served: Served, task: str) -> None:
    first = next(head for name, head in HEADS if name == task)
    assert served.answer(f"/{task}", INPUTS[task]) == served.answer(f"/{task}/{first}", INPUTS[task])


@pytest.mark.parametrize("task", ["classify", "pair"])
def test_classifiers_answer_one_input_nested(served: Served, task: str) -> None:
    one, several = served.answer(f"/{task}", INPUTS[task]), served.answer(f"/{task}", [INPUTS[task]] * 2)
    assert [label.keys() for label in one[0]] == [{"label", "score"}] * len(one[0])
    assert len(one) == 1 and same(several, one * 2)


@pytest.mark.parametrize("task", ["fill-mask", "tag", "qa"])
def test_the_other_tasks_answer_one_input_without_nesting(served: Served, task: str) -> None:
    one, several = served.answer(f"/{task}", INPUTS[task]), served.answer(f"/{task}", [INPUTS[task]] * 2)
    assert same(several, [one] * 2)


def test_qa_answers_an_object_or_the_best_as_a_list(served: Served) -> None:
    one = served.answer("/qa", QUESTION)
    assert one.keys() == {"score", "start", "end", "answer"}
    assert one["answer"] == QUESTION["context"][one["start"] : one["end"]]
    assert len(served.answer("/qa", QUESTION, top_k=3)) == 3


def test_fill_mask_answers_a_list_for_each_mask(served: Served) -> None:
    one = served.answer("/fill-mask", MASKED, top_k=2)
    assert [choice.keys() for choice in one] == [{"score", "token", "token_str", "sequence"}] * 2
    two = served.answer("/fill-mask", "The [MASK] sat on the [MASK].", top_k=2)
    assert [len(choices) for choices in two] == [2, 2]


def test_tag_answers_groups_by_default_and_tokens_when_asked(served: Served) -> None:
    spans = served.answer("/tag", TEXT, ignore_labels=[])
    assert spans and all(span.keys() == {"entity_group", "score", "word", "start", "end"} for span in spans)
    tokens = served.answer("/tag", TEXT, aggregation_strategy="none", ignore_labels=[])
    assert all("entity" in token for token in tokens)


def test_zero_shot_asks_a_head_that_knows_entailment(served: Served) -> None:
    one = served.answer("/zero-shot", TEXT, candidate_labels=["sport", "law"])
    assert sorted(each["label"] for each in one) == ["law", "sport"] and abs(sum(s["score"] for s in one) - 1) < 1e-6
    assert one == served.answer("/zero-shot/nli", TEXT, candidate_labels="sport, law")
    several = served.answer("/zero-shot", [TEXT, "Clara"], candidate_labels=["sport", "law"])
    assert same(several[0], one) and len(several) == 2
    assert "did you mean" not in served.post("/zero-shot/nsp", TEXT, candidate_labels=["a"]).json()["detail"]
    missing = served.client.post("/zero-shot", json={"inputs": TEXT})
    assert missing.status_code == 422 and missing.json()["errors"][0]["field"] == "parameters"
    missing = served.post("/zero-shot", TEXT)
    assert missing.status_code == 422 and missing.json()["errors"][0]["field"] == "parameters.candidate_labels"


def test_tag_takes_given_words_and_hides_what_it_finds(served: Served) -> None:
    words = ["The", "cat", "sat"]
    one = served.answer("/tag", words, is_split_into_words=True, aggregation_strategy="none", ignore_labels=[])
    assert [each["word"] for each in one] == words
    several = served.answer("/tag", [words, ["the", "dog"]], is_split_into_words=True)
    assert len(several) == 2
    redacted = served.answer("/tag", TEXT, redact=True)
    assert redacted.keys() == {"text", "spans"} and all(
        span["placeholder"] in redacted["text"] for span in redacted["spans"]
    )
    many = served.post("/tag", ["a"] * 9)
    assert many.status_code == 422 and "1 to 8" in many.json()["detail"]
    assert served.post("/tag", ["a"] * 9, is_split_into_words=True).status_code == 200
    long = served.post("/tag", ["a" * 600] * 9, is_split_into_words=True)
    assert long.status_code == 422 and "5408 characters; at most 5000" in long.json()["detail"]


def test_parameters_reach_the_model(served: Served) -> None:
    raw = served.answer("/classify/topic", TEXT, top_k=2, function_to_apply="none")[0]
    assert same(raw, computed(served, "topic", TEXT, top_k=2, function_to_apply="none"))


@pytest.mark.parametrize("parameters", [None, {}])
def test_parameters_may_be_absent_null_or_empty(served: Served, parameters: object) -> None:
    given = served.client.post("/classify", json={"inputs": TEXT, "parameters": parameters})
    absent = served.client.post("/classify", json={"inputs": TEXT})
    assert given.status_code == absent.status_code == 200 and given.json() == absent.json()


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/ld+json",
        "",
        "application/x-www-form-urlencoded",
    ],
)
def test_json_may_be_declared_or_not(served: Served, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    assert served.client.post("/classify", content=b'{"inputs": "a text"}', headers=headers).status_code == 200


def test_text_of_any_script_comes_back_whole(served: Served) -> None:
    context = "Clara 🎻 e\u0301 北京 lives in Berlin"
    answer = served.answer("/qa", {"question": "Where?", "context": context})
    assert answer["answer"] == context[answer["start"] : answer["end"]]


def test_long_texts_slide_windows_or_are_cut_with_a_header(served: Served) -> None:
    long = "the " * 500
    cut = served.post("/classify", long)
    assert int(cut.headers["X-Truncated"]) == 500 - (64 - 2)
    whole = served.post("/tag", long)
    assert "X-Truncated" not in whole.headers and whole.status_code == 200
    assert served.post("/qa", {"question": "who?", "context": long}).status_code == 200


def test_every_answer_says_what_made_it_and_how_long_it_took(served: Served) -> None:
    headers = served.post("/classify", TEXT).headers
    assert headers["X-Bundle"] == "tiny/1.2.3" and headers["Content-Type"] == "application/json"
    stages = [part.split(";dur=") for part in headers["Server-Timing"].split(", ")]
    assert [name for name, _ in stages] == ["tokenize", "queue", "encode", "decode"]
    assert all(float(duration) >= 0 for _, duration in stages)


def test_the_heads_route_lists_what_is_served(served: Served) -> None:
    heads = served.client.get("/heads").json()["heads"]
    assert [(head["task"], head["name"]) for head in heads] == HEADS
    assert [head["name"] for head in heads if head["default"]] == ["sentiment", "nli", "fill-mask", "ner", "qa"]
    topic = served.client.get("/heads/topic").json()
    assert topic == heads[1]
    assert topic["labels"] == ["art", "law", "sea", "war"] and topic["route"] == "/classify/topic"
    assert topic["limits"] == {"max_length": 64, "max_characters": 5000, "max_items": 8}
    assert topic["bundle"] == {"name": "tiny", "version": "1.2.3"}
    assert (topic["precision"], topic["provider"]) == ("fp32", "cpu")
    manifest = served.service.settings.bundles[0] / "bundle.json"
    assert topic["sha256"] == hashlib.sha256(manifest.read_bytes()).hexdigest(), "one digest of the whole bundle"
    assert topic["parameters"]["truncation"] == "right"
