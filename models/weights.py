"""Reads weights like transformers: from one file or shards, with old names, and with or without the prefix.

They come from safetensors, otherwise from pytorch_model.bin. That is a pickle, of which torch reads only tensors
(weights_only), so it never runs code.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from models.architectures import EMBEDDINGS, Family
from models.config import read_json
from models.errors import CheckpointError

ENCODER_PARTS = ("embeddings.", "embeddings_project.", "encoder.", "transformer.", "pooler.")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
BUFFERS = ("position_ids", "token_type_ids")
"""Integer buffers that older versions saved with the embeddings; they are ignored."""
SAFETENSORS, PICKLE = "model.safetensors", "pytorch_model.bin"
POINTER = b"version https://git-lfs"
CODE = re.compile(r"GLOBAL (\S+)")
"""Finds the function that torch names when it refuses a pickle."""

Weights = dict[str, Tensor]


def read_weights(directory: Path, prefix: str) -> Weights:
    """Return the weights of a directory as float32, with current names; `prefix` is that of the encoder's weights.

    Raise CheckpointError for a file that is missing, damaged or contains code, and for weights with an unsupported type
    or values that are not finite.
    """
    weights: Weights = {}
    for path in weight_files(directory):
        weights |= READERS[path.suffix](path)
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(BUFFERS)}
    for name, tensor in weights.items():
        check_numbers(name, tensor, directory)
    return {canonical(name, prefix): tensor.float() for name, tensor in weights.items()}


def weight_files(directory: Path) -> list[Path]:
    """Return model.safetensors or the shards in its index; if there is neither, the same for pytorch_model.bin."""
    for name in (SAFETENSORS, PICKLE):
        index = directory / f"{name}.index.json"
        shards = sorted(set(weight_map(index).values())) if index.exists() else []
        if (directory / name).exists():
            return [whole(directory / name)]
        if shards:
            return [whole(shard(directory, name, index)) for name in shards]
    raise CheckpointError(
        f"{directory / SAFETENSORS} does not exist, nor {PICKLE}; pass a directory written by save_pretrained"
    )


def shard(directory: Path, name: str, index: Path) -> Path:
    if Path(name).suffix not in READERS:
        raise CheckpointError(f"{index} names {name}, expected files of {' or '.join(READERS)}; restore the file")
    if not (directory / name).exists():
        raise CheckpointError(f"{directory / name} does not exist, though {index.name} names it; copy all shards")
    return directory / name


def whole(path: Path) -> Path:
    """Return `path`; raise CheckpointError if it is only a Git LFS pointer, as left by a clone without LFS."""
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{path} is a pointer of Git LFS, expected the weights; run `git lfs pull` there")
    return path


def weight_map(index: Path) -> dict[str, str]:
    """Return the shard of each weight, from an index file."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index} has no weight_map of names, expected one; restore the file")
    return found


def read_safetensors(path: Path) -> Weights:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); restore the file") from None


def read_pickle(path: Path) -> Weights:
    """Read a file of torch.save; raise CheckpointError if it contains anything else than tensors by name."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # torch raises many kinds, and several for each fault
        raise refusal(path, error) from None
    if not isinstance(found, dict) or not all(isinstance(one, Tensor) for one in found.values()):
        raise CheckpointError(f"{path} holds {content(found)}, expected tensors by name; save it with save_pretrained")
    return {str(name): tensor.detach() for name, tensor in found.items()}


READERS: dict[str, Callable[[Path], Weights]] = {".safetensors": read_safetensors, ".bin": read_pickle}


def refusal(path: Path, error: Exception) -> CheckpointError:
    """Return the error for a pickle that torch refuses."""
    code = CODE.search(str(error))
    if code:
        return CheckpointError(
            f"{path} holds {code[1]}, whose code would run, expected tensors only; pass {SAFETENSORS}, or save the "
            "model again with save_pretrained where you trust it"
        )
    return CheckpointError(f"{path} is damaged, or not written by torch.save; restore the file")


def content(found: Any) -> str:
    """Describe what a pickle contains."""
    if not isinstance(found, dict):
        return f"a {type(found).__name__}"
    name, other = next((name, one) for name, one in found.items() if not isinstance(one, Tensor))
    return f"a {type(other).__name__} under {str(name)[:80]!r}"


def check_numbers(name: str, tensor: Tensor, directory: Path) -> None:
    """Raise CheckpointError for a quantized weight, whose scales are unknown, and for one without finite values."""
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{directory}: the weight {name} is {str(tensor.dtype).removeprefix('torch.')}, expected float32, float16 "
            "or bfloat16; pass the weights as they were before they were quantized"
        )
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise CheckpointError(f"{directory}: the weight {name} is sparse or empty, expected all its numbers; save them")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{directory}: the weight {name} holds nan or infinity; pass one that was not lost")


def canonical(name: str, prefix: str) -> str:
    """Return the current name of a weight: replace LayerNorm.gamma and beta, and add the prefix if it is missing."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    while name.startswith(prefix):
        name = name.removeprefix(prefix)
    return f"{prefix}{name}" if name.startswith(ENCODER_PARTS) else name


def tied(weights: Weights, family: Family, bias: str, is_tied: bool, directory: Path) -> Weights:
    """Return weights in which the tied weight of decoder and word embedding has the embedding's name.

    A checkpoint may have saved either of the two. `bias` is the usual name of the decoder's bias. Raise CheckpointError
    if the decoder has its own weights, which our fill-mask heads do not support.
    """
    word, decoder = f"{family.prefix}{EMBEDDINGS['word.']}weight", f"{family.decoder}weight"
    differ = not is_tied and decoder not in weights
    for name, twin in ((word, decoder), (bias, f"{family.decoder}bias")):
        differ |= twin in weights and not torch.equal(weights.setdefault(name, weights[twin]), weights[twin])
    if differ:
        raise CheckpointError(
            f"{directory} has a decoder that is not its word embedding, expected one for both; pass a checkpoint whose "
            "tie_word_embeddings is true"
        )
    return weights
