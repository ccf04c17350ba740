"""Reading safetensors as transformers does: one file or shards, older names, and names with or without their prefix."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.config import read_json
from models.errors import CheckpointError

ENCODER_PARTS, HEAD_PARTS = ("embeddings.", "encoder.", "pooler."), ("cls.", "classifier.", "qa_outputs.")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BUFFERS = ("position_ids", "token_type_ids")
"""Whole numbers that older versions saved with the embeddings, and that nothing reads."""
WORD, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"

Weights = dict[str, Tensor]


def read_weights(directory: Path) -> Weights:
    """Return the weights of a directory as float32 under the names of transformers' BertFor… classes.

    Raise CheckpointError for a file that is absent or damaged, and for weights that are no numbers to compute with.
    """
    weights: Weights = {}
    for path in weight_files(directory):
        try:
            weights |= load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged ({error}); restore the file") from None
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(BUFFERS)}
    for name, tensor in weights.items():
        check_numbers(name, tensor, directory)
    return {canonical(name): tensor.float() for name, tensor in weights.items()}


def weight_files(directory: Path) -> list[Path]:
    """Return model.safetensors or, without it, the shards that the index names."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    names = sorted(set(weight_map(index).values())) if index.exists() else []
    if single.exists():
        return [single]
    if not names:
        raise CheckpointError(f"{single} does not exist; save the checkpoint with safe_serialization (safetensors)")
    for name in names:
        if not (directory / name).exists():
            raise CheckpointError(f"{directory / name} does not exist, though {index.name} names it; copy all shards")
    return [directory / name for name in names]


def weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each weight."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index} has no weight_map of names, expected one; restore the file")
    return found


def check_numbers(name: str, tensor: Tensor, directory: Path) -> None:
    """Raise CheckpointError for a quantised weight, whose scales we do not know, and for one that was lost."""
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{directory}: the weight {name} is {str(tensor.dtype).removeprefix('torch.')}, expected float32, float16 "
            "or bfloat16; pass the weights as they were before they were quantised"
        )
    if not tensor.isfinite().all():
        raise CheckpointError(f"{directory}: the weight {name} holds nan or infinity; pass one that was not lost")


def canonical(name: str) -> str:
    """Return today's name: LayerNorm.gamma and beta are older, and "bert." may stand before all names or none."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    bare = name.removeprefix("bert.")
    if bare.startswith(("bert.", *HEAD_PARTS)):
        return bare
    return f"bert.{bare}" if bare.startswith(ENCODER_PARTS) else name


def tied(weights: Weights, is_tied: bool, directory: Path) -> Weights:
    """Give what decoder and word embedding share its first name, whichever of the two was saved.

    Raise CheckpointError for a decoder of its own, which our fill-mask heads do not have.
    """
    differ = not is_tied and DECODER not in weights
    for name, twin in ((WORD, DECODER), (BIAS, DECODER_BIAS)):
        differ |= twin in weights and not torch.equal(weights.setdefault(name, weights[twin]), weights[twin])
    if differ:
        raise CheckpointError(
            f"{directory} has a decoder that is not its word embedding, expected one for both; pass a checkpoint whose "
            "tie_word_embeddings is true"
        )
    return weights
