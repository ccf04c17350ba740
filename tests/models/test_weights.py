"""If these fail, weights that transformers loads are refused here, or others are read in silence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
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
def test_quantised_weights_are_refused(dtype: torch.dtype, words: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
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
