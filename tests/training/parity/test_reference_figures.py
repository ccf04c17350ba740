"""If these fail, the reference figures for traffic come from other inputs than clients send."""

from pathlib import Path

import pytest

from models.bundle import Bundle, read_bundle
from models.predictor import Predictor
from models.qa import QuestionInput
from models.tokenizer import Tokenizer
from tests.service.bundles import write_bundle
from training.parity.evidence import Evidence
from training.parity.reference_figures import inputs_of, reference_figures, reference_of
from training.text.examples import (
    Document,
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
)

EXAMPLES: dict[str, Example] = {
    "sentiment": TextExample("the cat sees a dog", "positive"),
    "nli": PairExample("the cat sees a dog", "a cat sees", "neutral"),
    "ner": TaggedExample(["the", "cat", "sees"], ["O", "O", "O"]),
    "qa": QuestionExample("1", "the cat sees a dog", "who sees?", ["the cat"], [0]),
    "fill-mask": Document("the man walks in the city and sees a big old house by the sea " * 4),
}


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return read_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tokenizer, max_length=128))


def test_every_task_has_figures_of_its_validation_data(bundle: Bundle) -> None:
    evidence = {name: [Evidence("validation", (), [one] * 120, 120)] for name, one in EXAMPLES.items()}
    found = reference_figures(Predictor(bundle), evidence)
    assert found.keys() == EXAMPLES.keys()
    for name, reference in found.items():
        reference.check(bundle.manifest.heads[name].spec)
    labels = {name: reference.label is not None for name, reference in found.items()}
    assert labels == {"sentiment": True, "nli": True, "ner": True, "qa": False, "fill-mask": False}


def test_what_a_head_learned_from_is_no_reference(bundle: Bundle) -> None:
    evidence = {"sentiment": [Evidence("training", (Path("train.jsonl"),), [EXAMPLES["sentiment"]] * 120, 120)]}
    assert reference_figures(Predictor(bundle), evidence) == {}


def test_inputs_that_a_service_refuses_are_left_out(bundle: Bundle) -> None:
    long = QuestionExample("1", "the cat " * 70_000, "who sees?", ["the cat"], [0])
    found = reference_of(Predictor(bundle), "qa", [EXAMPLES["qa"]] * 110 + [long])
    assert found and found.inputs == 110


def test_inputs_are_what_clients_send(tokenizer: Tokenizer) -> None:
    assert inputs_of([EXAMPLES["ner"], SpannedText("Anna  lives", [])], tokenizer) == ["the cat sees", "Anna  lives"]
    assert inputs_of([EXAMPLES["qa"]], tokenizer) == [QuestionInput(question="who sees?", context="the cat sees a dog")]
    assert all("[MASK]" in text for text in inputs_of([EXAMPLES["fill-mask"]], tokenizer))
