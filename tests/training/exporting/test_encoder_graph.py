"""If these fail, the graphs of a DistilBERT, ELECTRA or RoBERTa give other answers than transformers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from models.bundle import Bundle
from models.checkpoint import Checkpoint, read_checkpoint
from models.heads import ClassificationHead, activation_of
from models.onnx_runtime import Precision
from models.row import Row
from models.session import Session
from models.tokenizer import Tokenizer
from tests.models.architectures import CLASSES, HEADS, batch, logits_of, random_model
from training.exporting.export import ExportOptions, export
from training.exporting.unchanged_parts import Kept
from training.run.start_from import unpack

PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "fp32")


class Example:
    """The four classes of a family on one encoder: the networks of transformers, and a bundle with all their heads."""

    def __init__(self, family: str, tokenizer: Tokenizer, directory: Path) -> None:
        self.models: dict[str, PreTrainedModel] = {}
        heads: dict[str, Any] = {}
        for end in CLASSES:
            model = random_model(family, end, tokenizer)
            for first in list(self.models.values())[:1]:
                model.base_model.load_state_dict(first.base_model.state_dict(), strict=False)
            self.models[HEADS[end]] = model
            checkpoint = self.read(model, tokenizer, directory / end)
            heads |= checkpoint.heads
        checkpoint.heads = heads
        self.checkpoint = checkpoint
        self.bundle = export(checkpoint, directory / "bundle", ExportOptions("made", precisions=PRECISIONS))

    def read(self, model: PreTrainedModel, tokenizer: Tokenizer, directory: Path) -> Checkpoint:
        model.save_pretrained(directory)
        tokenizer.write(directory)
        return read_checkpoint(directory)


@pytest.fixture(scope="module", params=["DistilBert", "small Electra", "Roberta"])
def example(request: pytest.FixtureRequest, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Example:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tokenizer, "read", lambda path: tokenizer)
        return Example(request.param, tokenizer, tmp_path_factory.mktemp("example"))


def rows_and_logits(model: PreTrainedModel, name: str) -> tuple[list[Row], list[Any]]:
    """Rows without padding, as tasks give them, and what transformers makes of each in a padded batch."""
    inputs = batch(model)
    rows, expected = [], []
    for ids, segments, mask, logits in zip(*inputs.values(), logits_of(model, inputs), strict=True):
        length = int(mask.sum())
        positions = [0] if name == "classify" else list(range(length))
        rows.append(Row(ids[:length].tolist(), segments[:length].tolist(), positions))
        expected.append(logits[None] if name == "classify" else logits[:length])
    return rows, expected


def only(bundle: Bundle, precision: Precision) -> Bundle:
    """The same bundle without its other graphs of the encoder."""
    encoder = bundle.manifest.encoder
    encoder = encoder.model_copy(update={"files": {precision: encoder.files[precision]}})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"encoder": encoder}))


@pytest.mark.parametrize("name", HEADS.values())
def test_graphs_compute_what_transformers_computes(name: str, example: Example) -> None:
    """And the export that made them let int8 and fp16 pass."""
    rows, expected = rows_and_logits(example.models[name], name)
    theirs = torch.cat(expected)[:, : example.checkpoint.heads[name].spec.width(example.bundle.tokenizer.vocab_size)]
    means: dict[Precision, float] = {"fp32": 1e-5, "fp16": 0.01, "int8": 0.1}
    for precision, mean in means.items():
        session = Session(example.bundle, precision=precision)
        errors = np.abs(np.concatenate(session.run([(name, row) for row in rows])) - theirs.numpy())
        assert errors.mean() <= mean * theirs.std()
        assert errors.max() <= (1e-5 * max(1.0, float(theirs.abs().max())) if precision == "fp32" else 1.5)


@torch.no_grad()
def test_a_bundle_gives_its_network_back(example: Example) -> None:
    """Projection and activation too."""
    found, expected = unpack(example.bundle), example.checkpoint.encoder.state_dict()
    assert found.encoder.state_dict().keys() == expected.keys()
    for name, tensor in found.encoder.state_dict().items():
        torch.testing.assert_close(tensor, expected[name][: len(tensor)], rtol=0, atol=1e-5)
    for name, head in example.checkpoint.heads.items():
        assert activation_of(found.heads[name].module) == activation_of(head.module)
        for key, tensor in found.heads[name].module.state_dict().items():
            torch.testing.assert_close(tensor, head.module.state_dict()[key][: len(tensor)], rtol=0, atol=0)


@torch.no_grad()
def test_rounded_weights_are_near_those_before(example: Example) -> None:
    """A scale or a smoothing that is not undone would be off by more than rounding is."""
    found, expected = unpack(only(example.bundle, "int8")).encoder.state_dict(), example.checkpoint.encoder.state_dict()
    for name, tensor in found.items():
        before = expected[name][: len(tensor)]
        assert (tensor - before).abs().max() <= 0.05 * before.abs().max(), name


def test_a_head_with_another_activation_is_another_head(example: Example) -> None:
    checkpoint = unpack(example.bundle)
    assert Kept.of(example.bundle, checkpoint, PRECISIONS).heads == [*checkpoint.heads]
    classifier = checkpoint.heads["classify"].module
    assert isinstance(classifier, ClassificationHead)
    classifier.activation = "gelu" if classifier.activation == "tanh" else "tanh"
    assert Kept.of(example.bundle, checkpoint, PRECISIONS).heads == ["tag", "qa", "fill-mask"]
