"""If these fail, weights that transformers loads are refused here, or wrong weights are read silently."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

from models.checkpoint import Checkpoint, read_checkpoint
from models.errors import CheckpointError
from models.row import Row
from models.tokenizer import Tokenizer
from tests.models.directories import Weights, change, rewrite, save

KINDS = [
    BertForMaskedLM,
    BertForPreTraining,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertForQuestionAnswering,
]


@torch.no_grad()
def assert_same_logits(kind: Any, directory: Path, tokenizer: Tokenizer) -> None:
    """Against transformers' reading of the same directory."""
    row = tokenizer.pair_row(tokenizer.ids("The cat sat on the mat, didn't it?"), tokenizer.ids("A dog"), [0])
    model = kind.from_pretrained(directory).eval().float()
    inputs = {"input_ids": torch.tensor([row.input_ids]), "token_type_ids": torch.tensor([row.token_type_ids])}
    expected = [value for name, value in model(**inputs).items() if name.endswith("logits")]
    for logits, wanted in zip(ours(read_checkpoint(directory), row), separate(expected), strict=True):
        torch.testing.assert_close(logits[: len(wanted)], wanted, atol=1e-5, rtol=1e-5)


def ours(checkpoint: Checkpoint, row: Row) -> list[torch.Tensor]:
    checkpoint.encoder.eval()
    vectors = checkpoint.encoder(torch.tensor([row.input_ids]), torch.tensor([row.token_type_ids]))[0]
    return [head.module.eval()(vectors) for head in checkpoint.heads.values()]


def separate(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Bring the outputs of transformers into the form of our heads: start and end are one."""
    if len(outputs) == 2 and outputs[0].shape == outputs[1].shape:
        return [torch.stack([outputs[0][0], outputs[1][0]], -1)]
    return [output[0] if output.ndim == 3 else output for output in outputs]


def prefix(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        new + name.removeprefix(old) if name.startswith(old) else name: tensor for name, tensor in weights.items()
    }


def gamma_and_beta(weights: Weights) -> Weights:
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in weights.items():
        for today, before in older.items():
            name = name.replace(today, before)
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changed",
    [
        prefix("bert.", ""),
        prefix("bert.", "bert.bert."),
        prefix("", "bert."),
        gamma_and_beta,
        lambda weights: weights | {"bert.embeddings.position_ids": torch.arange(128)[None]},
        lambda weights: {name: tensor.half() for name, tensor in weights.items()},
        lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()},
        lambda weights: {name: tensor.double() for name, tensor in weights.items()},
    ],
    ids=["no bert.", "bert. twice", "bert. before all", "gamma", "buffer", "half", "bfloat16", "double"],
)
def test_weights_are_loaded_as_by_transformers(
    changed: Callable[[Weights], Weights], kind: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rewrite(save(kind, tokenizer, tmp_path), changed)
    assert_same_logits(kind, tmp_path, tokenizer)


def moved(weights: Weights, name: str, to: str) -> Weights:
    return {to if key == name else key: tensor for key, tensor in weights.items()}


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ],
)
@pytest.mark.parametrize("both", [True, False])
def test_what_decoder_and_embedding_share_is_found_under_either_name(
    name: str, twin: str, both: bool, kind: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save(kind, tokenizer, tmp_path)
    rewrite(tmp_path, lambda weights: weights | {twin: weights[name]} if both else moved(weights, name, twin))
    assert_same_logits(kind, tmp_path, tokenizer)


@pytest.mark.parametrize("kind", KINDS)
def test_gelu_under_another_name(kind: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert_same_logits(kind, save(kind, tokenizer, tmp_path, hidden_act="gelu_python"), tokenizer)


@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForQuestionAnswering, BertForMaskedLM])
def test_a_pooler_that_no_head_reads_may_be_absent_or_there(kind: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(kind, tokenizer, tmp_path)
    rewrite(tmp_path, lambda weights: weights | {"bert.pooler.dense.bias": torch.ones(32)})
    assert_same_logits(kind, tmp_path, tokenizer)


def test_a_file_beside_shards_is_the_one_that_counts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    change(tmp_path / "model.safetensors.index.json", weight_map={"classifier.bias": "gone.safetensors"})
    assert_same_logits(BertForSequenceClassification, tmp_path, tokenizer)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(torch.float8_e4m3fn, "float8_e4m3fn"), (torch.float8_e5m2, "float8_e5m2"), (torch.int8, "int8")],
)
def test_quantized_weights_are_refused(dtype: torch.dtype, words: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    rewrite(
        save(BertForSequenceClassification, tokenizer, tmp_path),
        lambda weights: {k: tensor.to(dtype) if tensor.ndim == 2 else tensor for k, tensor in weights.items()},
    )
    with pytest.raises(CheckpointError, match=f"the weight .* is {words}, expected float32, .* before they were quant"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        lambda weights: weights | {"cls.predictions.decoder.bias": weights["cls.predictions.bias"] + 1},
        lambda weights: weights | {"cls.predictions.decoder.weight": torch.zeros(3, 3)},
    ],
)
def test_a_decoder_of_its_own_is_refused(
    changed: Callable[[Weights], Weights], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    rewrite(save(BertForMaskedLM, tokenizer, tmp_path), changed)
    with pytest.raises(CheckpointError, match="has a decoder that is not its word embedding, expected one for both"):
        read_checkpoint(tmp_path)


def test_a_decoder_that_was_not_saved_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    change(save(BertForMaskedLM, tokenizer, tmp_path) / "config.json", tie_word_embeddings=False)
    with pytest.raises(CheckpointError, match="expected one for both; pass a checkpoint whose tie_word_embeddings"):
        read_checkpoint(tmp_path)


def test_a_shard_that_was_not_copied(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForSequenceClassification, tokenizer, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    change(tmp_path / "model.safetensors.index.json", weight_map=shards)
    with pytest.raises(CheckpointError, match="model-00002-of-00002.safetensors does not exist, though .* copy all"):
        read_checkpoint(tmp_path)


# ---- pickles -------------------------------------------------------------------------------------------------------


def pickled(directory: Path, legacy: bool = False) -> Path:
    """Write the weights as older versions of transformers do."""
    path = directory / "pytorch_model.bin"
    torch.save(load_file(directory / "model.safetensors"), path, _use_new_zipfile_serialization=not legacy)
    (directory / "model.safetensors").unlink()
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_of_tensors_is_read(legacy: bool, kind: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pickled(save(kind, tokenizer, tmp_path), legacy)
    torch.save(argparse.Namespace(rate=1e-4), tmp_path / "training_args.bin")  # as a Trainer leaves one; not read
    assert_same_logits(kind, tmp_path, tokenizer)


def test_pickled_shards_are_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = pickled(save(BertForMaskedLM, tokenizer, tmp_path))
    weights = list(torch.load(path).items())
    shards = {"pytorch_model-00001-of-00002.bin": weights[:9], "pytorch_model-00002-of-00002.bin": weights[9:]}
    for name, part in shards.items():
        torch.save(dict(part), tmp_path / name)
    path.unlink()
    names = {key: name for name, part in shards.items() for key, _ in part}
    change(tmp_path / "pytorch_model.bin.index.json", weight_map=names, metadata={})
    assert_same_logits(BertForMaskedLM, tmp_path, tokenizer)
    change(tmp_path / "pytorch_model.bin.index.json", weight_map={"a": "weights.pkl"})
    with pytest.raises(CheckpointError, match=r"names weights.pkl, expected files of .safetensors or .bin"):
        read_checkpoint(tmp_path)


def test_safetensors_are_preferred(tokenizer: Tokenizer, tmp_path: Path) -> None:
    (save(BertForMaskedLM, tokenizer, tmp_path) / "pytorch_model.bin").write_bytes(b"nothing")
    assert_same_logits(BertForMaskedLM, tmp_path, tokenizer)


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_with_code_is_refused_and_does_not_run(legacy: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = pickled(save(BertForMaskedLM, tokenizer, tmp_path))
    torch.save({"a": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"holds (posix|nt)\.mkdir, whose code would run, expected tensors only"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("held", "words"),
    [
        ([1, 2], "holds a list, expected tensors by name"),
        ({"step": 3}, "holds a int under 'step', expected tensors by name"),
        ({"a": torch.eye(3).to_sparse()}, "the weight a is sparse or empty"),
        ({"a": torch.ones(3, device="meta")}, "the weight a is sparse or empty"),
        ({"a": argparse.Namespace()}, "holds argparse.Namespace, whose code would run"),
    ],
)
def test_a_pickle_of_something_else(held: object, words: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.save(held, pickled(save(BertForMaskedLM, tokenizer, tmp_path)))
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_file_that_is_damaged(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    save(BertForMaskedLM, tokenizer, tmp_path)
    path = pickled(tmp_path) if name.endswith(".bin") else tmp_path / name
    for contents in (path.read_bytes()[:2000], b"hello world" * 100, b""):
        path.write_bytes(contents)
        with pytest.raises(CheckpointError, match=f"{name} is damaged"):
            read_checkpoint(tmp_path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match=f"{name} is a pointer of Git LFS, .*; run `git lfs pull` there"):
        read_checkpoint(tmp_path)
