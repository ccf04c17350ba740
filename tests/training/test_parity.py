"""If these fail, a bundle that answers otherwise than its checkpoint is let through, or a good one is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.bundle import Bundle
from models.checkpoint import Checkpoint
from models.task import Logits
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.errors import ExportError
from training.parity import Figures, check_parity, compare, measure_parity, probes


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    return bundles.checkpoint(tokenizer)


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.make(tokenizer, tmp_path_factory.mktemp("bundle") / "tiny", ("int8", "fp32"))


@pytest.fixture(scope="module")
def figures(checkpoint: Checkpoint, bundle: Bundle) -> Figures:
    return measure_parity(checkpoint, bundle, {})


def test_probes_cover_length_and_padding(tokenizer: Tokenizer) -> None:
    batches = list(probes(tokenizer, 64))
    shapes = [[len(row.input_ids) for row in batch] for batch in batches]
    assert [3] in shapes and [64] in shapes and [32, 64, 3] in shapes
    for row in (row for batch in batches for row in batch):
        assert row.input_ids[0] == tokenizer.cls_id and row.input_ids[-1] == tokenizer.sep_id
        assert {row.input_ids[column] for column in row.positions} == {tokenizer.mask_id}
        assert len(row.token_type_ids) == len(row.input_ids)


def test_probes_are_the_same_each_time(tokenizer: Tokenizer) -> None:
    assert list(probes(tokenizer, 64)) == list(probes(tokenizer, 64))


def test_fp32_is_torch(figures: Figures) -> None:
    """Every head, over batch, length and padding."""
    heads = figures["precisions"]["fp32"]["heads"]
    assert list(heads) == list(bundles.HEADS)
    for head in heads.values():
        assert head["max_difference"] <= 1e-4
        assert head["equal_argmax"] == 1.0 or head["expected_loss"] < 1e-3
    check_parity({"precisions": {"fp32": figures["precisions"]["fp32"]}}, 0.0)


def test_int8_is_near_torch(figures: Figures) -> None:
    for head in figures["precisions"]["int8"]["heads"].values():
        assert 1e-4 < head["max_difference"] < 0.5 * head["largest_logit"]
        assert head["equal_argmax"] > 0.6
    assert figures["precisions"]["int8"]["heads"]["sentiment"]["choices"] == figures["probes"]["rows"]


def test_other_weights_are_found_out(tokenizer: Tokenizer, bundle: Bundle) -> None:
    other = bundles.checkpoint(tokenizer)
    with torch.no_grad():
        other.encoder.layers[1].get_parameter("intermediate.bias")[3] += 1
    with pytest.raises(ExportError, match="in fp32 differs from PyTorch by .* expected at most"):
        check_parity(measure_parity(other, bundle, {}), bundles.ANY_LOSS)


def logits(*rows: list[float]) -> list[Logits]:
    return [np.array([row], np.float32) for row in rows]


def test_expected_loss_is_what_the_wrong_choice_costs() -> None:
    expected = logits([np.log(0.7), np.log(0.3)], [np.log(0.6), np.log(0.4)])
    found = logits([1.0, 2.0], [2.0, 1.0])
    compared = compare("classify", expected, found)
    assert compared["equal_argmax"] == 0.5
    assert compared["expected_loss"] == pytest.approx(100 * (0.7 - 0.3) / 2, rel=1e-5)


def test_a_tie_costs_nothing() -> None:
    compared = compare("tag", logits([1.0, 1.0]), logits([1.0, 1.0001]))
    assert compared["equal_argmax"] == 0.0 and compared["expected_loss"] == 0.0


def test_qa_chooses_among_positions() -> None:
    start_end = np.array([[5.0, 0.0], [0.0, 5.0], [1.0, 1.0]], np.float32)
    assert compare("qa", [start_end], [start_end[:, ::-1]])["equal_argmax"] == 0.0
    assert compare("qa", [start_end], [start_end])["choices"] == 2


def measured(loss: float | None, expected_loss: float) -> Figures:
    head: Figures = {"max_difference": 0.1, "largest_logit": 5.0, "equal_argmax": 0.9, "expected_loss": expected_loss}
    if loss is not None:
        head["validation"] = {"metric": "f1", "file": "validation.jsonl", "loss": loss}
    return {"precisions": {"int8": {"heads": {"ner": head}}}}


def test_the_gate() -> None:
    check_parity(measured(0.5, 9.0), 0.5)  # data count for more than the guess
    check_parity(measured(None, 0.4), 0.5)
    with pytest.raises(ExportError, match=r"'ner' loses 0.60 points in int8 by f1 on validation.jsonl, expected"):
        check_parity(measured(0.6, 0.0), 0.5)
    with pytest.raises(ExportError, match=r"by its expected loss on random rows.*--data ner=FILE"):
        check_parity(measured(None, 0.6), 0.5)
    with pytest.raises(ExportError):
        check_parity(measured(float("nan"), 0.0), 0.5)


def test_validation_stands_beside_the_reference(checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"text_a": "the cat", "text_b": "a dog", "label": "neutral"}\n' * 3)
    found = measure_parity(checkpoint, bundle, {"nli": data}, limit=2)
    for precision in ("int8", "fp32"):
        validation = found["precisions"][precision]["heads"]["nli"]["validation"]
        assert validation["scores"]["examples"] == 2
        assert len(validation["sha256"]) == 64
    assert found["precisions"]["fp32"]["heads"]["nli"]["validation"]["loss"] == 0
