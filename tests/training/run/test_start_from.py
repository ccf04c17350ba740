"""If these fail, training starts from other weights than the bundle serves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from models.onnx_runtime import Precision
from models.session import Session
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.finetuning.finetune import finetune
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.parity.measure import probes, reference_logits
from training.run.start_from import read_base, unpack


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    return bundles.checkpoint(tokenizer)


def test_float_weights_come_back_as_they_were(checkpoint: Checkpoint, tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle = bundles.make(tokenizer, tmp_path / "bundle", ("int8", "fp32"))
    found = read_base(bundle.directory)
    assert found.config.num_attention_heads == checkpoint.config.num_attention_heads
    expected = checkpoint.encoder.state_dict()
    expected["embeddings.word.weight"] = expected["embeddings.word.weight"][: tokenizer.vocab_size]
    for name, tensor in found.encoder.state_dict().items():
        moved = name.endswith(("norm.bias", "query_key_value.bias", "intermediate.bias"))  # by a carried bias, and back
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6 if moved else 0)
    for name, head in checkpoint.heads.items():
        assert found.heads[name].spec == head.spec
        for key, tensor in found.heads[name].module.state_dict().items():
            torch.testing.assert_close(tensor, head.module.state_dict()[key][: len(tensor)], rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_rounded_weights_answer_as_the_bundle_does(precision: Precision, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """PyTorch on the weights of the bundle is nearer to the bundle than PyTorch on the weights before rounding."""
    bundle = bundles.make(tokenizer, tmp_path / "bundle", (precision,))
    rows = [row for batch in probes(tokenizer, 64) for row in batch]
    before, after = (
        reference_logits(each, rows) for each in (bundles.checkpoint(tokenizer), read_base(tmp_path / "bundle"))
    )
    served = [Session(bundle).run([("fill-mask", row)])[0] for row in rows]
    distances = [
        np.mean([np.abs(mine - theirs).mean() for mine, theirs in zip(logits["fill-mask"], served, strict=True)])
        for logits in (before, after)
    ]
    assert distances[1] < 0.8 * distances[0]


def test_a_head_is_finetuned_on_the_encoder_of_a_bundle(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundles.make(tokenizer, tmp_path / "bundle", ("int8",))
    data = tmp_path / "data.jsonl"
    rows = [{"text": "the cat runs", "label": "animal"}, {"text": "a woman runs", "label": "person"}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    head = HeadRecipe("classify", [str(data)], [str(data)], batch_size=2, max_length=32)
    recipe = FinetuneRecipe(base=str(tmp_path / "bundle"), heads={"mine": head}, steps=60, rate=1e-3, threads=1)
    finetune(recipe, tmp_path / "run")
    assert list(read_checkpoint(tmp_path / "run").heads) == ["mine"]
    assert read_checkpoint(tmp_path / "run").heads["mine"].metrics["accuracy"] == 1.0


def test_a_checkpoint_is_a_base_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    write_checkpoint(checkpoint, tmp_path)
    assert read_base(tmp_path).heads.keys() == checkpoint.heads.keys()


def test_the_longest_row_of_a_bundle_is_that_of_its_training(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bundle = bundles.make(tokenizer, tmp_path / "bundle", ("fp32",))
    assert unpack(bundle).config.max_length == 64 and unpack(bundle).config.trained_length is None
    encoder = bundle.manifest.encoder.model_copy(update={"max_length": 48})
    shorter = replace(bundle, manifest=bundle.manifest.model_copy(update={"encoder": encoder}))
    assert unpack(shorter).config.max_length == 48 and unpack(shorter).config.max_position_embeddings == 64
