"""If these fail, masks are filled with wrong words or scores, or a request that cannot be answered is not refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from transformers import BertForMaskedLM, pipeline

from models.errors import InputError
from models.fill_mask import Choice, FillMask, _best
from models.task import HeadSpec, softmax
from models.tokenizer import Tokenizer
from tests.models import tiny

TEXTS = ["Paris is the [MASK] of France.", "[MASK]", "The [MASK] sat on [MASK], didn't it? [MASK]"]


@pytest.fixture(scope="module")
def task(tokenizer: Tokenizer) -> FillMask:
    return FillMask(tokenizer, HeadSpec("fill-mask", []), 128)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> BertForMaskedLM:
    return tiny.random_model(BertForMaskedLM, tiny.config(tokenizer))


def fill(task: FillMask, model: BertForMaskedLM, text: str, **chosen: object) -> list[Choice] | list[list[Choice]]:
    parameters = task.parse_parameters(chosen)
    encoded = task.encode(text, parameters)
    return task.decode(encoded, tiny.run(model, encoded.rows), parameters)


def check_equal(answer: object, expected: object) -> None:
    if isinstance(expected, list):
        assert isinstance(answer, list)
        assert len(answer) == len(expected)
        for item, other in zip(answer, expected, strict=True):
            check_equal(item, other)
    else:
        assert isinstance(answer, dict)
        assert isinstance(expected, dict)
        assert answer.pop("score") == pytest.approx(expected.pop("score"), abs=1e-5)
        assert answer == expected


@pytest.mark.parametrize("text", TEXTS)
def test_answers_equal_those_of_transformers(
    task: FillMask, model: BertForMaskedLM, tokenizer: Tokenizer, tmp_path: Path, text: str
) -> None:
    theirs = pipeline("fill-mask", model=model, tokenizer=tiny.their_tokenizer(tokenizer, tmp_path))
    check_equal(fill(task, model, text), theirs(text))
    check_equal(fill(task, model, text, top_k=400), theirs(text, top_k=400))
    targets = ["capital", "city", "##ing", "capital"]
    check_equal(fill(task, model, text, targets=targets), theirs(text, targets=targets))


def test_targets_are_found_as_written_or_as_the_rules_write_them(task: FillMask, tokenizer: Tokenizer) -> None:
    encoded = task.encode(TEXTS[0], task.parse_parameters({"targets": ["Paris", "paris", "##ing", "."]}))
    assert encoded.source.targets is not None
    assert [tokenizer.token(i) for i in encoded.source.targets.tolist()] == ["paris", "##ing", "."]


def test_equal_scores_keep_the_order_of_the_vocabulary(task: FillMask, tokenizer: Tokenizer) -> None:
    parameters = task.parse_parameters({"top_k": 3})
    encoded = task.encode(TEXTS[0], parameters)
    logits = np.zeros((1, tokenizer.vocab_size), dtype=np.float32)
    logits[0, [9, 300, 20]] = 1
    choices = task.decode(encoded, logits, parameters)
    assert [choice["token"] for choice in choices] == [9, 20, 300]  # type: ignore[call-overload]


@given(
    arrays(np.float32, st.integers(1, 700), elements=st.sampled_from([-3.0, -0.5, 0.0, 0.25, 7.0]), fill=st.nothing()),
    st.integers(1, 800),
)
def test_the_best_are_those_of_a_whole_sort(row: NDArray[np.float32], count: int) -> None:
    """Few values, so that equals stand at every border: of blocks, and of the count."""
    expected = sorted(range(len(row)), key=lambda column: (-row[column], column))[:count]
    assert _best(row, count).tolist() == expected


def test_scores_are_shares_of_the_whole_vocabulary(tokenizer: Tokenizer) -> None:
    """Against a softmax in twice the precision, logits up to 60 and a temperature included."""
    task = FillMask(tokenizer, HeadSpec("fill-mask", [], temperature=1.7), 128)
    logits = np.random.default_rng(0).normal(scale=15, size=(1, tokenizer.vocab_size)).astype(np.float32)
    every = task.parse_parameters({"top_k": min(1000, tokenizer.vocab_size)})
    answer = task.decode(task.encode(TEXTS[0], every), logits, every)
    expected = softmax(logits, 1.7)[0]
    for choice in answer:
        assert choice["score"] == pytest.approx(expected[choice["token"]], rel=1e-5, abs=1e-12)  # type: ignore[call-overload]


def test_only_masks_are_read_and_other_special_tokens_stay_text(task: FillMask, tokenizer: Tokenizer) -> None:
    encoded = task.encode("[SEP] [MASK]", task.parse_parameters({}))
    (row,) = encoded.rows
    assert [tokenizer.token(i) for i in row.input_ids][:3] == ["[CLS]", "[", "s"]
    assert [row.input_ids[column] for column in row.positions] == [tokenizer.mask_id]
    assert row.positions == [6]


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("the cat", {}, r"inputs: holds no \[MASK\]"),
        ("the [mask]", {}, r"inputs: holds no \[MASK\]"),
        ("", {}, r"inputs: holds no \[MASK\]"),
        ("[MASK] \0", {}, r"inputs: character 7 is U\+0000"),
        ("[MASK] " + "cat " * 126, {}, "inputs: has 127 tokens, but this model takes 126"),
        ("[MASK]", {"top_k": 0}, "parameters.top_k: is 0"),
        ("[MASK]", {"top_k": 1001}, "parameters.top_k: is 1001"),
        ("[MASK]", {"top_k": 500}, "parameters.top_k: is 500, but with 1 masks and 417 tokens .* 417 at most"),
        ("[MASK]" * 100, {"top_k": 51}, "parameters.top_k: is 51, but with 100 masks .* 50 at most"),
        ("[MASK]", {"targets": []}, "parameters.targets: has 0 items; send at least 1"),
        ("[MASK]", {"targets": "cat"}, "parameters.targets: is 'cat', but must be a list"),
        ("[MASK]", {"targets": [" "]}, "parameters.targets: ' ' has no visible"),
        ("[MASK]", {"targets": ["catx"]}, "'catx' is not a single token of the vocabulary, but cat ##x; pass"),
        ("[MASK]", {"targets": ["\u03a9"]}, r"is not a single token of the vocabulary, but \[UNK\]; pass"),
        ("[MASK]", {"targets": ["[MASK]"]}, "is not a single token of the vocabulary, but "),
    ],
)
def test_what_cannot_be_answered_is_refused(task: FillMask, text: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        task.encode(text, task.parse_parameters(given))
