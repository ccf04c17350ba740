"""If these fail, a figure depends on how inputs were batched, or validation changes the training it interrupts."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.checkpoint import Head
from models.config import EncoderConfig
from models.encoder import Encoder
from models.errors import InputError
from models.heads import build_head
from models.predictor import BATCH_TOKENS, LocalPredictor, like_length
from models.qa import QuestionInput
from models.row import Encoded, Row
from models.task import HeadSpec, Logits
from models.tokenizer import Tokenizer
from training.errors import EvaluationError
from training.evaluation.predictors import CheckpointPredictor, MeanPredictor

SPECS = {
    "mood": HeadSpec("classify", ["bad", "good"]),
    "names": HeadSpec("tag", ["O", "B-PER", "I-PER"]),
    "answers": HeadSpec("qa", []),
    "words": HeadSpec("fill-mask", []),
}


def make_predictor(tokenizer: Tokenizer, seed: int = 0) -> CheckpointPredictor:
    torch.manual_seed(seed)
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    encoder = Encoder(config)
    heads = {
        name: Head(spec, build_head(spec.task, len(spec.labels), config, encoder.embeddings.word))
        for name, spec in SPECS.items()
    }
    return CheckpointPredictor(encoder, heads, tokenizer)


@pytest.fixture(scope="module")
def predictor(tokenizer: Tokenizer) -> CheckpointPredictor:
    return make_predictor(tokenizer)


INPUTS: dict[str, list[Any]] = {
    "mood": [" ".join("abc" * n) for n in (1, 30, 2, 9, 55)],
    "names": [" ".join("ade" * n) for n in (4, 200, 1)],
    "answers": [QuestionInput(question="b c", context=" ".join("fghij" * n)) for n in (2, 90, 7)],
    "words": ["a [MASK] c", "[MASK][MASK]", "a b [MASK] " * 20],
}


@pytest.mark.parametrize("head", SPECS)
def test_every_input_is_answered_as_if_it_were_alone(predictor: CheckpointPredictor, head: str) -> None:
    together = dict(logits(predictor, head, INPUTS[head]))
    assert sorted(together) == list(range(len(INPUTS[head])))
    for index, one in enumerate(INPUTS[head]):
        [(_, alone)] = logits(predictor, head, [one])
        np.testing.assert_allclose(together[index], alone, atol=1e-5)


def logits(predictor: LocalPredictor, head: str, inputs: list[Any]) -> Iterator[tuple[int, Logits]]:
    for one in predictor.predict(head, inputs, {}):
        assert one.logits is not None
        yield one.index, one.logits


@pytest.mark.parametrize("head", SPECS)
def test_the_mean_of_several_is_the_geometric_mean_of_their_probabilities(tokenizer: Tokenizer, head: str) -> None:
    members = [make_predictor(tokenizer, seed) for seed in (0, 1)]
    members[1].heads = {name: replace(spec, temperature=2.0) for name, spec in SPECS.items()}
    mean = dict(logits(MeanPredictor(members), head, INPUTS[head]))
    first, second = (dict(logits(member, head, INPUTS[head])) for member in members)
    axis = 0 if head == "answers" else -1  # a span is chosen among positions
    for index in mean:
        product = shares(first[index], axis) * shares(second[index] / 2.0, axis)
        expected = np.sqrt(product) / np.sqrt(product).sum(axis, keepdims=True)
        np.testing.assert_allclose(shares(mean[index], axis), expected, rtol=1e-5)


def shares(values: Logits, axis: int) -> NDArray[np.float64]:
    exponentials: NDArray[np.float64] = np.exp(values.astype(np.float64))
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis, keepdims=True)
    return result


def test_those_that_disagree_on_labels_have_no_mean(tokenizer: Tokenizer) -> None:
    one, other = make_predictor(tokenizer), make_predictor(tokenizer)
    other.heads = {"mood": HeadSpec("classify", ["good", "bad"]), "words": SPECS["words"]}
    with pytest.raises(EvaluationError, match=r"head 'mood' is classify with \['bad', 'good'\] in one source and"):
        MeanPredictor([one, other])
    del other.heads["mood"]
    assert list(MeanPredictor([one, other]).heads) == ["words"]


def test_dropout_is_off_while_it_predicts_and_back_on_afterwards(tokenizer: Tokenizer) -> None:
    predictor = make_predictor(tokenizer)
    encoder, head = predictor._encoder, predictor._modules["mood"]
    for training in (True, False):
        encoder.train(training)
        head.train(not training)
        [(_, first)], [(_, second)] = logits(predictor, "mood", ["a b c"]), logits(predictor, "mood", ["a b c"])
        np.testing.assert_array_equal(first, second)
        assert encoder.training is training and encoder.layers[0].training is training
        assert head.training is not training


def test_predicting_leaves_no_gradient(predictor: CheckpointPredictor) -> None:
    list(predictor.predict("mood", ["a b"], {}))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in predictor._encoder.parameters())


def test_a_head_that_does_not_exist_is_an_error_that_names_those_that_do(predictor: CheckpointPredictor) -> None:
    with pytest.raises(InputError, match="no head 'moods', expected one of answers, mood, names, words"):
        predictor.head("moods")


def test_an_input_that_cannot_be_encoded_is_named_by_its_place(predictor: CheckpointPredictor) -> None:
    with pytest.raises(InputError, match=r"inputs\[1\]"):
        list(predictor.predict("words", ["a [MASK]", "a b"], {}))
    with pytest.raises(InputError, match=r"inputs\[0\]\.context"):
        list(predictor.predict("answers", [QuestionInput(question="a", context="\0")], {}))


@given(st.lists(st.lists(st.integers(3, 512), min_size=1, max_size=3), max_size=40))
def test_batches_hold_every_row_once_and_stay_in_the_budget(inputs: list[list[int]]) -> None:
    encoded = {
        index: Encoded([Row([0] * length, [0] * length, [0]) for length in lengths], None, 0)
        for index, lengths in enumerate(inputs)
    }
    batches = list(like_length(encoded))
    places = [(index, number) for index, lengths in enumerate(inputs) for number in range(len(lengths))]
    assert sorted(place for batch in batches for place in batch) == places
    for batch in batches:
        lengths = [inputs[index][number] for index, number in batch]
        assert len(batch) == 1 or len(lengths) * max(lengths) <= BATCH_TOKENS
