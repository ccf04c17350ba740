"""If these fail, a bundle whose answers differ from its checkpoint is accepted, or a good one is refused."""

from pathlib import Path

import pytest
import torch

from models.bundle import Bundle
from models.checkpoint import Checkpoint
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.errors import ExportError
from training.parity.accuracy_gate import check_parity
from training.parity.logit_comparison import Figures
from training.parity.measure import measure_parity, probes


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


def test_validation_stands_beside_the_reference(checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"text_a": "the cat", "text_b": "a dog", "label": "neutral"}\n' * 3)
    found = measure_parity(checkpoint, bundle, {"nli": data}, limit=2)
    for precision in ("int8", "fp32"):
        validation = found["precisions"][precision]["heads"]["nli"]["validation"]
        assert validation["scores"]["examples"] == 2
        assert [len(file["sha256"]) for file in validation["files"]] == [64]
        assert (validation["examples"], validation["of"]) == (2, 3)
    assert found["precisions"]["fp32"]["heads"]["nli"]["validation"]["loss"] == 0
