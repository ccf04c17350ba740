"""If these fail, labels get wrong scores or names, or texts are not cut as requested."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification, pipeline

from models.classification import Classify, Pair, PairInput, share_room
from models.errors import BundleError, InputError
from models.task import HeadSpec, ProblemType, Trained
from models.tokenizer import Tokenizer
from tests.models import tiny

LABELS = ["entailment", "neutral", "contradiction"]
LOGITS = np.array([[1.0, 3.0, 2.0]], dtype=np.float32)


def classify(tokenizer: Tokenizer, max_length: int = 128, **spec: object) -> Classify:
    return Classify(tokenizer, HeadSpec(**({"task": "classify", "labels": LABELS} | spec)), max_length)  # type: ignore[arg-type]


def pair(tokenizer: Tokenizer, max_length: int = 128) -> Pair:
    return Pair(tokenizer, HeadSpec("pair", LABELS), max_length)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_answers_equal_those_of_transformers(tokenizer: Tokenizer, tmp_path: Path, function: str) -> None:
    model = tiny.random_model(BertForSequenceClassification, tiny.config(tokenizer, LABELS))
    theirs = pipeline("text-classification", model=model, tokenizer=tiny.their_tokenizer(tokenizer, tmp_path))
    for task, inputs, same in (
        (classify(tokenizer), "A great film, I love it.", "A great film, I love it."),
        (pair(tokenizer), PairInput(text="the cat", text_pair="a dog"), {"text": "the cat", "text_pair": "a dog"}),
    ):
        parameters = task.parse_parameters({"function_to_apply": function})
        encoded = task.encode(inputs, parameters)  # type: ignore[arg-type]
        answer = task.decode(encoded, tiny.run(model, encoded.rows), parameters)
        expected = theirs(same, top_k=None, function_to_apply=function)
        assert [item["label"] for item in answer] == [item["label"] for item in expected]
        assert [item["score"] for item in answer] == pytest.approx([item["score"] for item in expected], abs=1e-5)


def test_labels_come_best_first_and_top_k_keeps_the_best(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer)
    encoded = task.encode("the cat", task.parse_parameters({}))
    answer = task.decode(encoded, LOGITS, task.parse_parameters({}))
    assert [item["label"] for item in answer] == ["neutral", "contradiction", "entailment"]
    assert sum(item["score"] for item in answer) == pytest.approx(1)
    assert task.decode(encoded, LOGITS, task.parse_parameters({"top_k": 2})) == answer[:2]
    assert task.decode(encoded, LOGITS, task.parse_parameters({"top_k": None})) == answer


def windows(tokenizer: Tokenizer, text: str, trained: int | None, max_length: int = 128) -> list[list[int]]:
    task = classify(tokenizer, max_length, trained=Trained(max_length=trained))
    encoded = task.encode(text, task.parse_parameters({"truncation": "windows"}))
    assert encoded.truncated == 0
    return [row.input_ids[1:-1] for row in encoded.rows]


@given(words=st.integers(1, 300), trained=st.sampled_from([None, 9, 16, 64, 500]))
def test_windows_hold_every_token_and_are_as_long_as_training_was(
    tokenizer: Tokenizer, words: int, trained: int | None
) -> None:
    text = " ".join(["the", "cat", "runs"][number % 3] for number in range(words))
    parts = windows(tokenizer, text, trained)
    room = min(trained or 128, 128) - 2
    ids = tokenizer.ids(text)
    assert parts[0] == ids[:room] and parts[-1] == ids[-len(parts[-1]) :]
    assert all(len(part) == min(room, len(ids)) for part in parts)
    step = room - min(room // 4, 64)
    assert len(parts) == 1 + max(0, -(-(len(ids) - room) // step))


def test_a_last_sentence_cannot_hide_behind_harmless_ones(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer, 32)
    text = "the cat runs. " * 50 + "a dog"
    parameters = task.parse_parameters({"truncation": "windows"})
    encoded = task.encode(text, parameters)
    assert tokenizer.ids("a dog") == encoded.rows[-1].input_ids[-3:-1]
    logits = np.tile(np.array([[9.0, 0.0, 0.0]], np.float32), (len(encoded.rows), 1))
    logits[-1] = [0.0, 0.0, 9.0]
    best = {item["label"]: item["score"] for item in task.decode(encoded, logits, parameters)}
    assert best["contradiction"] == pytest.approx(best["entailment"]) and best["contradiction"] > 0.99
    mean = task.parse_parameters({"truncation": "windows", "window_scores": "mean"})
    share = {item["label"]: item["score"] for item in task.decode(encoded, logits, mean)}
    assert share["contradiction"] == pytest.approx(best["contradiction"] / len(encoded.rows), rel=0.01)
    assert sum(share.values()) == pytest.approx(1)


def test_every_part_of_one_text_meets_every_part_of_the_other(tokenizer: Tokenizer) -> None:
    task = pair(tokenizer, 16)
    inputs = PairInput(text="the cat " * 10, text_pair="a dog runs " * 8)
    encoded = task.encode(inputs, task.parse_parameters({"truncation": "windows"}))
    sides = [split_pair(tokenizer, row.input_ids) for row in encoded.rows]
    firsts, seconds = ({side[which] for side in sides} for which in (0, 1))
    assert set(product(firsts, seconds)) == set(sides) and encoded.truncated == 0
    for parts, text in ((firsts, inputs.text), (seconds, inputs.text_pair)):
        ids = tokenizer.ids(text)
        covered = {i for part in parts for i in range(len(ids)) if tuple(ids[i : i + len(part)]) == part}
        assert covered and max(len(row.input_ids) for row in encoded.rows) <= 16
    short = task.encode(PairInput(text="the cat", text_pair="a dog"), task.parse_parameters({"truncation": "windows"}))
    assert short.rows == task.encode(PairInput(text="the cat", text_pair="a dog"), task.parse_parameters({})).rows
    with pytest.raises(InputError, match="pairs of windows, expected at most 2048; shorten one of the texts"):
        task.encode(
            PairInput(text="the " * 500, text_pair="a " * 500), task.parse_parameters({"truncation": "windows"})
        )


def split_pair(tokenizer: Tokenizer, ids: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    middle = ids.index(tokenizer.sep_id)
    return tuple(ids[1:middle]), tuple(ids[middle + 1 : -1])


def test_temperature_divides_the_logits(tokenizer: Tokenizer) -> None:
    task, plain = classify(tokenizer, temperature=2.0), classify(tokenizer)
    parameters = task.parse_parameters({})
    encoded = task.encode("the cat", parameters)
    assert task.decode(encoded, LOGITS * 2, parameters) == plain.decode(encoded, LOGITS, parameters)


def test_extreme_logits_keep_finite_scores(tokenizer: Tokenizer) -> None:
    logits = np.array([[-1e4, 0.0, 1e4]], dtype=np.float32)
    task = classify(tokenizer)
    for function in ("softmax", "sigmoid"):
        parameters = task.parse_parameters({"function_to_apply": function})
        scores = [item["score"] for item in task.decode(task.encode("cat", parameters), logits, parameters)]
        assert np.isfinite(scores).all()
        assert scores[0] == 1


@pytest.mark.parametrize(
    ("defaults", "given", "same"),
    [
        ({}, True, "right"),
        ({}, False, "error"),
        ({"truncation": "left"}, True, "left"),
        ({"truncation": "windows"}, True, "windows"),
        ({"truncation": "windows"}, False, "error"),
        ({"truncation": "error"}, True, "right"),
        ({"truncation": True}, None, "right"),
    ],
)
def test_booleans_mean_what_they_mean_in_transformers(
    tokenizer: Tokenizer, defaults: dict[str, object], given: bool | None, same: str
) -> None:
    text, both = "the cat sat on a mat " * 3, PairInput(text="the cat sat", text_pair="a dog runs on a mat")
    chosen = {} if given is None else {"truncation": given}
    for task, inputs in (
        (classify(tokenizer, 10, defaults=defaults), text),
        (Pair(tokenizer, HeadSpec("pair", LABELS, defaults), 8), both),
    ):
        named = task.parse_parameters({"truncation": same})
        asked = task.parse_parameters(chosen)
        if same == "error":
            with pytest.raises(InputError, match="inputs: has .* tokens"):
                task.encode(inputs, asked)  # type: ignore[arg-type]
        else:
            assert task.encode(inputs, asked) == task.encode(inputs, named)  # type: ignore[arg-type]


@given(limit=st.integers(8, 40), words=st.integers(1, 60), truncation=st.sampled_from(["right", "left", "windows"]))
def test_no_row_is_longer_than_the_client_allows(tokenizer: Tokenizer, limit: int, words: int, truncation: str) -> None:
    """As a guard client sends it: {"truncation": true, "max_length": 512} to a model of any length."""
    chosen = {"truncation": truncation, "max_length": limit}
    one, two = classify(tokenizer, 20), pair(tokenizer, 20)
    text = "the cat sat on " * words
    single = one.encode(text, one.parse_parameters(chosen))
    both = two.encode(PairInput(text=text, text_pair="a dog"), two.parse_parameters(chosen))
    assert {len(row.input_ids) for row in single.rows} == {min(limit, 20, 4 * words + 2)}
    assert {len(row.input_ids) for row in both.rows} == {min(limit, 20, 4 * words + 5)}
    cut = 0 if truncation == "windows" else max(0, 4 * words + 2 - min(limit, 20))
    assert single.truncated == cut


def test_windows_keep_their_length_below_a_higher_limit(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer, trained=Trained(max_length=16))
    asked = task.parse_parameters({"truncation": "windows", "max_length": 512})
    usual = task.parse_parameters({"truncation": "windows"})
    assert task.encode("the cat " * 40, asked) == task.encode("the cat " * 40, usual)


def test_a_text_beyond_the_limit_of_the_client_is_refused_with_that_limit(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer)
    parameters = task.parse_parameters({"truncation": False, "max_length": 8})
    with pytest.raises(
        InputError, match="has 7 tokens, but max_length leaves 6 besides the special ones; raise it, or"
    ):
        task.encode("the cat sat on a mat .", parameters)


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_labels_below_the_threshold_are_left_out(tokenizer: Tokenizer, function: str) -> None:
    task = classify(tokenizer)
    encoded = task.encode("the cat", task.parse_parameters({}))
    every = task.decode(encoded, LOGITS, task.parse_parameters({"function_to_apply": function}))
    second = every[1]["score"]
    for threshold, count in ((second, 2), (np.nextafter(second, 9), 1), (9.0, 0), (-1.0, 3), (None, 3)):
        chosen = {"function_to_apply": function, "threshold": None if threshold is None else float(threshold)}
        assert task.decode(encoded, LOGITS, task.parse_parameters(chosen)) == every[:count]


@pytest.mark.parametrize(("truncation", "kept"), [("right", ["the", "cat"]), ("left", ["a", "mat"])])
def test_the_asked_end_of_a_long_text_is_cut_and_counted(
    tokenizer: Tokenizer, truncation: str, kept: list[str]
) -> None:
    task = classify(tokenizer, max_length=4)
    encoded = task.encode("The cat sat on a mat", task.parse_parameters({"truncation": truncation}))
    assert [tokenizer.token(i) for i in encoded.rows[0].input_ids] == ["[CLS]", *kept, "[SEP]"]
    assert encoded.truncated == 4


def test_a_text_that_just_fits_is_not_cut(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer, max_length=4)
    encoded = task.encode("the cat", task.parse_parameters({"truncation": "error"}))
    assert encoded.truncated == 0
    assert encoded.rows[0].positions == [0]
    with pytest.raises(InputError, match="inputs: has 3 tokens, but this model takes 2 "):
        task.encode("the cat sat", task.parse_parameters({"truncation": "error"}))


@pytest.mark.parametrize(
    ("truncation", "first", "second"),
    [("right", ["the", "cat"], ["a", "dog"]), ("left", ["the", "mat"], ["red", "house"])],
)
def test_the_longer_text_of_a_pair_is_cut(
    tokenizer: Tokenizer, truncation: str, first: list[str], second: list[str]
) -> None:
    task = pair(tokenizer, max_length=7)
    inputs = PairInput(text="the cat sat on the mat", text_pair="a dog in a red house")
    encoded = task.encode(inputs, task.parse_parameters({"truncation": truncation}))
    row = encoded.rows[0]
    assert [tokenizer.token(i) for i in row.input_ids] == ["[CLS]", *first, "[SEP]", *second, "[SEP]"]
    assert row.token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    assert encoded.truncated == 8
    with pytest.raises(InputError, match="inputs: has 12 tokens, but this model takes 4 "):
        task.encode(inputs, task.parse_parameters({"truncation": "error"}))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40))
def test_room_is_shared_as_by_taking_tokens_one_by_one(first: int, second: int, room: int) -> None:
    kept_first, kept_second = first, second
    while kept_first + kept_second > room:  # _truncate_seq_pair of Google's run_classifier.py
        if kept_first > kept_second:
            kept_first -= 1
        else:
            kept_second -= 1
    assert share_room(first, second, room) == (kept_first, kept_second)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "parameters.top_k: is 0, but input should be greater than or equal to 1"),
        ({"top_k": "3"}, "parameters.top_k: is '3', but must be a whole number"),
        ({"top_k": True}, "parameters.top_k: is True, but"),
        (
            {"truncation": "middle"},
            "parameters.truncation: is 'middle', but input should be 'right', 'left', 'windows' or 'error'",
        ),
        ({"truncation": 1}, "parameters.truncation: is 1, but input should be 'right'"),
        ({"max_length": 7}, "parameters.max_length: is 7, but input should be greater than or equal to 8"),
        ({"threshold": "0.5"}, "parameters.threshold: is '0.5', but must be a number"),
        ({"topk": 1}, "parameters.topk: is not a parameter of classify; it takes top_k, function_to_apply, truncation"),
    ],
)
def test_wrong_parameters_are_named(tokenizer: Tokenizer, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(InputError) as error:
        classify(tokenizer).parse_parameters(parameters)
    assert str(error.value).startswith(message)


def test_more_labels_than_there_are_is_an_error_before_the_encoder_runs(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer)
    with pytest.raises(InputError, match="top_k: is 4, but this head has 3 labels; pass 1 to 3"):
        task.encode("cat", task.parse_parameters({"top_k": 4}))


def test_the_text_of_a_pair_that_is_unusable_is_named(tokenizer: Tokenizer) -> None:
    task = pair(tokenizer)
    for field, inputs in (
        ("text", PairInput(text=" ", text_pair="a")),
        ("text_pair", PairInput(text="a", text_pair="\0")),
    ):
        with pytest.raises(InputError) as error:
            task.encode(inputs, task.parse_parameters({}))
        assert error.value.field == f"inputs.{field}"


def test_a_head_overrides_defaults_and_a_request_overrides_the_head(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer, defaults={"top_k": 1, "truncation": "left"})
    assert task.parse_parameters({}).top_k == 1
    assert task.parse_parameters({"top_k": None}).top_k is None
    assert task.parse_parameters({"top_k": 2}).truncation == "left"
    with pytest.raises(BundleError, match="the defaults of this classify head are wrong: parameters.topk"):
        classify(tokenizer, defaults={"topk": 1})


@pytest.mark.parametrize(
    ("labels", "problem", "function"),
    [
        (LABELS, "single_label_classification", "softmax"),
        (["toxic"], "single_label_classification", "sigmoid"),
        (LABELS, "multi_label_classification", "sigmoid"),
        (["score"], "regression", "none"),
        (LABELS, "regression", "none"),
    ],
)
def test_the_function_follows_from_what_the_logits_mean(
    tokenizer: Tokenizer, labels: list[str], problem: ProblemType, function: str
) -> None:
    task = Classify(tokenizer, HeadSpec("classify", labels, problem_type=problem), 128)
    assert task.parse_parameters({}).function_to_apply == function
    encoded = task.encode("the cat", task.parse_parameters({}))
    logits = LOGITS[:, : len(labels)]
    asked = task.decode(encoded, logits, task.parse_parameters({"function_to_apply": function}))
    for chosen in (task.parse_parameters({}), task.parse_parameters({"function_to_apply": None}), task.parameters()):
        assert task.decode(encoded, logits, chosen) == asked
    own = Classify(tokenizer, HeadSpec("classify", labels, {"function_to_apply": "none"}, problem_type=problem), 128)
    assert own.decode(encoded, logits, own.parse_parameters({})) == own.decode(
        encoded, logits, own.parse_parameters({"function_to_apply": "none"})
    )


def test_each_label_may_have_its_own_threshold(tokenizer: Tokenizer) -> None:
    task = classify(tokenizer)
    encoded = task.encode("the cat", task.parse_parameters({}))
    scores = {item["label"]: item["score"] for item in task.decode(encoded, LOGITS, task.parse_parameters({}))}
    for label, score in scores.items():
        kept = task.decode(encoded, LOGITS, task.parse_parameters({"threshold": {label: score}}))
        assert {item["label"] for item in kept} == set(LABELS)
        fewer = task.parse_parameters({"threshold": {label: float(np.nextafter(score, 9))}})
        assert {item["label"] for item in task.decode(encoded, LOGITS, fewer)} == set(LABELS) - {label}


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        ({"neutra": 0.5}, "parameters.threshold: has 'neutra', but this head has the labels entailment, neutral"),
        ({"neutral": "high"}, "parameters.threshold: is 'high', but must be a number"),
        ([0.5], r"parameters.threshold: is \[0.5\], but must be a number"),
    ],
)
def test_thresholds_that_do_not_fit_are_refused(tokenizer: Tokenizer, threshold: Any, words: str) -> None:
    task = classify(tokenizer)
    with pytest.raises(InputError, match=words):
        task.encode("the cat", task.parse_parameters({"threshold": threshold}))
    with pytest.raises(BundleError, match="the defaults of this classify head are wrong: parameters.threshold"):
        classify(tokenizer, defaults={"threshold": threshold})
