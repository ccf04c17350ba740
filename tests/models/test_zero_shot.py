"""If these fail, candidate labels get other scores than the head's, or labels of one client affect another."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import BertForSequenceClassification, pipeline

from models.classification import Pair, PairInput
from models.errors import BundleError, InputError
from models.rerank import Rerank
from models.task import HeadSpec, Trained
from models.task_registry import ROUTES, TASKS, routes_of
from models.tokenizer import Tokenizer
from models.zero_shot import MAX_CANDIDATES, MAX_CHARACTERS, ZeroShot, obstacle
from tests.models import tiny

NLI = ["entailment", "neutral", "contradiction"]
TEXT = "The cat sat on the mat, and a dog ran into the red house."
TOPICS = ["cat", "a red house", "film", "dog", "Unwantedly"]
ASKED: list[dict[str, Any]] = [
    {"candidate_labels": TOPICS},
    {"candidate_labels": "cat, a red house,, dog ,"},
    {"candidate_labels": ["film"]},
    {"candidate_labels": ["cat", "dog", "cat"], "hypothesis_template": "{} and the house"},
]


def zero_shot(tokenizer: Tokenizer, max_length: int = 128, labels: list[str] = NLI, **spec: Any) -> ZeroShot:
    return ZeroShot(tokenizer, HeadSpec("pair", labels, **spec), max_length)


def answer(task: ZeroShot, model: BertForSequenceClassification, text: str, **chosen: Any) -> list[dict[str, Any]]:
    parameters = task.parse_parameters(chosen)
    encoded = task.encode(text, parameters)
    return [dict(item) for item in task.decode(encoded, tiny.run(model, encoded.rows), parameters)]


def decide(task: ZeroShot, logits: NDArray[np.float32], **chosen: Any) -> dict[str, float]:
    parameters = task.parse_parameters(chosen)
    found = task.decode(task.encode(TEXT, parameters), logits, parameters)
    assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
    return {item["label"]: item["score"] for item in found}


@pytest.mark.parametrize(
    "labels",
    [
        NLI,
        ["contradiction", "neutral", "ENTAILMENT"],
        ["contradiction", "entailment", "neutral"],
        ["not_entailment", "entailment"],
        ["Entailed", "not_entailed"],
    ],
)
def test_answers_equal_those_of_transformers(tokenizer: Tokenizer, tmp_path: Path, labels: list[str]) -> None:
    model = tiny.random_model(BertForSequenceClassification, tiny.config(tokenizer, labels))
    their_tokenizer: Any = tiny.their_tokenizer(tokenizer, tmp_path)
    their_tokenizer.model_max_length = 128
    theirs = pipeline("zero-shot-classification", model=model, tokenizer=their_tokenizer)
    task = zero_shot(tokenizer, labels=labels)
    long = "the cat sat on a mat " * 30  # is cut, and its hypotheses are not
    for text, multi_label, chosen in product((TEXT, long), (False, True), ASKED):
        expected: Any = theirs(text, multi_label=multi_label, **chosen)
        found = answer(task, model, text, multi_label=multi_label, **chosen)
        assert [item["score"] for item in found] == pytest.approx(expected["scores"], abs=1e-6)
        pairs = zip(expected["labels"], expected["scores"], strict=True)
        by_label = [(label, pytest.approx(score, abs=1e-6)) for label, score in sorted(pairs)]
        assert sorted((item["label"], item["score"]) for item in found) == by_label


@pytest.mark.parametrize(
    "labels", [["neutral", "entailment", "contradiction"], ["entailment", "contradiction", "maybe"]]
)
def test_contradiction_is_found_by_name(tokenizer: Tokenizer, labels: list[str]) -> None:
    """transformers takes its place for granted, and would weigh entailment against the third label here."""
    logits = np.zeros((1, 3), np.float32)
    logits[0, labels.index("contradiction")] = 1.0
    score = decide(zero_shot(tokenizer, labels=labels), logits, candidate_labels=["cat"])["cat"]
    assert score == pytest.approx(1 / (1 + np.e))


def test_rows_are_those_of_the_pair_task(tokenizer: Tokenizer) -> None:
    task, pair = zero_shot(tokenizer), Pair(tokenizer, HeadSpec("pair", NLI), 128)
    rows = task.encode(TEXT, task.parse_parameters({"candidate_labels": TOPICS})).rows
    pairs = [PairInput(text=TEXT, text_pair=f"This example is {label}.") for label in TOPICS]
    assert rows == [row for inputs in pairs for row in pair.encode(inputs, pair.parse_parameters({})).rows]


def test_temperature_divides_the_logits(tokenizer: Tokenizer) -> None:
    logits = np.array([[1.0, 0.0, -1.0], [2.0, 0.0, 1.0]], np.float32)
    for multi in (False, True):
        chosen: dict[str, Any] = {"candidate_labels": ["cat", "dog"], "multi_label": multi}
        plain = decide(zero_shot(tokenizer), logits, **chosen)
        assert decide(zero_shot(tokenizer, temperature=2.0), logits * 2, **chosen) == pytest.approx(plain)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_long_text_is_read_in_windows_if_the_head_does(tokenizer: Tokenizer, multi_label: bool) -> None:
    spec: dict[str, Any] = {"trained": Trained(max_length=32)}
    text = "the cat sat on a mat . " * 16
    chosen: dict[str, Any] = {"candidate_labels": ["cat", "a red house"], "multi_label": multi_label}
    for window_scores, join in (("maximum", np.max), ("mean", np.mean)):
        task = zero_shot(tokenizer, defaults={"truncation": "windows", "window_scores": window_scores}, **spec)
        parameters = task.parse_parameters(chosen)
        encoded = task.encode(text, parameters)
        assert encoded.truncated == 0 and max(len(row.input_ids) for row in encoded.rows) == 32
        logits = np.random.default_rng(0).normal(size=(len(encoded.rows), 3)).astype(np.float32)
        first, second = np.split(logits.astype(np.float64), [encoded.source[1]])
        assert len(first) > 3 and len(second) > 3
        found = {item["label"]: item["score"] for item in task.decode(encoded, logits, parameters)}
        if multi_label:
            scores = [float(join(1 / (1 + np.exp(part[:, 2] - part[:, 0])))) for part in (first, second)]
        else:
            powers = np.exp([join(part[:, 0]) for part in (first, second)])
            scores = (powers / powers.sum()).tolist()
        assert [found["cat"], found["a red house"]] == pytest.approx(scores)
    right = task.encode(text, task.parse_parameters({**chosen, "truncation": "right", "max_length": 40}))
    assert {len(row.input_ids) for row in right.rows} == {40} and len(right.rows) == 2
    longest = len(tokenizer.ids("This example is a red house."))
    assert right.truncated == len(tokenizer.ids(text)) - (40 - 3 - longest)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({}, "parameters.candidate_labels: is missing, but zero-shot needs it; pass it"),
        ({"candidate_labels": []}, "parameters.candidate_labels: has 0 items; send at least 1"),
        ({"candidate_labels": " , "}, "parameters.candidate_labels: has 0 items; send at least 1"),
        ({"candidate_labels": 3}, "parameters.candidate_labels: is 3, but must be a list"),
        ({"candidate_labels": ["a", 3]}, "parameters.candidate_labels.1: is 3, but must be a text"),
        ({"candidate_labels": ["a", ""]}, "parameters.candidate_labels.1: is ''"),
        ({"candidate_labels": ["a", " "]}, "parameters.candidate_labels.1: ' ' has no visible character"),
        ({"candidate_labels": ["b\0"]}, r"parameters.candidate_labels.0: character 1 is U\+0000"),
        (
            {"candidate_labels": ["a"] * (MAX_CANDIDATES + 1)},
            "candidate_labels: has 501 items; send 1 to 500",
        ),
        ({"candidate_labels": ["a" * (MAX_CHARACTERS + 1)]}, "parameters.candidate_labels.0: .*at most 500 characters"),
        ({"candidate_labels": ["cat " * 60]}, "candidate_labels.0: makes a sentence of .*, but half of a row has room"),
        (
            {"candidate_labels": "a", "hypothesis_template": "It is so."},
            "template: is 'It is so.', but expected",
        ),
        (
            {"candidate_labels": "a", "hypothesis_template": "{} {}"},
            "template: is '{} {}', but expected",
        ),
        ({"candidate_labels": "a", "hypothesis_template": "{} \0"}, "hypothesis_template: character 3"),
        (
            {"candidate_labels": "a", "labels": ["b"]},
            "labels: is not a parameter of zero-shot; it takes cand",
        ),
        ({"candidate_labels": "a", "truncation": "error", "max_length": 26}, "inputs: has .* tokens, but max_length"),
    ],
)
def test_what_cannot_be_rated_is_refused(tokenizer: Tokenizer, chosen: dict[str, Any], message: str) -> None:
    task = zero_shot(tokenizer)
    with pytest.raises(InputError, match=message):
        task.encode(TEXT, task.parse_parameters(chosen))


def test_windows_times_labels_are_bounded(tokenizer: Tokenizer) -> None:
    task = zero_shot(tokenizer, 32)
    chosen = {"candidate_labels": ["cat"] * 400, "truncation": "windows"}
    with pytest.raises(InputError, match="which with 400 labels makes more than 2048 rows; shorten it, or send fewer"):
        task.encode("the cat " * 100, task.parse_parameters(chosen))


def test_a_template_is_text_and_no_program(tokenizer: Tokenizer) -> None:
    task = zero_shot(tokenizer)
    for template in ("{0.__class__} {}", "{:>9999999999} {}", "{{}", "{}}"):
        parameters = task.parse_parameters({"candidate_labels": "cat", "hypothesis_template": template})
        (row,) = task.encode("dog", parameters).rows
        assert row.input_ids[3:-1] == tokenizer.ids(template.replace("{}", "cat"))


@pytest.mark.parametrize(
    ("spec", "routes"),
    [
        (HeadSpec("pair", NLI), ["pair", "zero-shot"]),
        (HeadSpec("pair", ["isNext", "notNext"]), ["pair"]),
        (HeadSpec("classify", NLI), ["classify"]),
        (HeadSpec("qa", []), ["qa"]),
        (HeadSpec("pair", NLI, problem_type="multi_label_classification"), ["pair"]),
        (HeadSpec("pair", ["entailment"]), ["pair", "rerank"]),
        (HeadSpec("pair", ["score"], problem_type="regression"), ["pair", "rerank"]),
        (HeadSpec("classify", ["toxic"]), ["classify"]),
    ],
)
def test_pair_heads_answer_zero_shot_by_entailment_and_rerank_by_their_one_label(
    tokenizer: Tokenizer, spec: HeadSpec, routes: list[str]
) -> None:
    assert routes_of(spec) == routes
    for route in routes_of(spec):
        assert ROUTES[route](tokenizer, spec, 128).route == route
    if "zero-shot" not in routes:
        with pytest.raises(BundleError) as error:
            ZeroShot(tokenizer, spec, 128)
        assert str(error.value) == obstacle(spec)
        assert ", ".join(spec.labels) in obstacle(spec) or f"/{spec.task}" in obstacle(spec)
    if "rerank" not in routes:
        with pytest.raises(BundleError, match="but rerank needs one for /pair with 1 label"):
            Rerank(tokenizer, spec, 128)


def test_a_bundle_cannot_declare_another_way_to_ask() -> None:
    assert set(ROUTES) - set(TASKS) == {"zero-shot", "rerank"}
