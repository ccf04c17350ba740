"""The start of a run: a checkpoint, or a bundle, whose weights are read from its graphs.

So a team with only a bundle can train its own heads on the starter's encoder, or pretrain further. int8 weights are
converted to the numbers that they stand for, so training starts from what the service computes.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, inliner, numpy_helper
from torch import nn

from models.architectures import Activation
from models.bundle import Bundle, read_bundle
from models.checkpoint import Checkpoint, Head, read_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import build_head
from models.manifest import MANIFEST
from models.onnx_runtime import CUDA_ATTENTION, Precision
from training.errors import TrainingError
from training.run.model_directory import check_directory
from training.run.progress import tell

BEST_FIRST: tuple[Precision, ...] = ("fp32", "fp16", "int8")
HEAD_COUNT = {"Attention": "q_num_heads", "MultiHeadAttention": "num_heads", CUDA_ATTENTION: "num_heads"}
"""The attribute with the number of attention heads, by operator; int8 bundles of older versions use the second."""
NORMS = ("LayerNormalization", "SkipLayerNormalization")
ACTIVATION_OPERATORS: dict[Activation, str] = {"tanh": "Tanh", "gelu": "Gelu", "relu": "Relu"}
"""The operator between the two layers of a classifier, by activation."""

Weights = dict[str, NDArray[np.float32]]


def note_length(checkpoint: Checkpoint, longest: int) -> None:
    """Note the longest rows that an encoder was trained on, if `longest` is more than before."""
    if longest > checkpoint.config.max_length:
        checkpoint.config = checkpoint.encoder.config = replace(checkpoint.config, trained_length=longest)


def read_base(directory: Path) -> Checkpoint:
    """Read a checkpoint, or the most precise weights of a bundle; raise CheckpointError or BundleError."""
    if (directory / MANIFEST).exists():
        return unpack(read_bundle(directory))
    check_directory(directory)
    checkpoint = read_checkpoint(directory)
    for note in checkpoint.tokenizer.notes:
        tell(note)
    return checkpoint


def set_dropout(checkpoint: Checkpoint, hidden: float, attention: float) -> None:
    """Set the dropouts of encoder and heads, in place of those in the base's config.json."""
    for part in (checkpoint.encoder, *(head.module for head in checkpoint.heads.values())):
        for module in part.modules():
            if isinstance(module, nn.Dropout):
                module.p = hidden
    for layer in checkpoint.encoder.layers:
        layer.attention_dropout = attention  # type: ignore[assignment]  # a ModuleList does not keep the type of its items


def unpack(bundle: Bundle) -> Checkpoint:
    """Return encoder, heads and tokenizer of a bundle as a checkpoint."""
    files = bundle.manifest.encoder.files
    graph = onnx.load(bundle.directory / next(files[precision] for precision in BEST_FIRST if precision in files))
    if graph.functions:
        graph = inliner.inline_local_functions(graph)  # older bundles have no functions
    weights = float_weights(graph)
    config = config_of(bundle, graph, weights)
    checkpoint = Checkpoint(config, Encoder(config), bundle.tokenizer)
    fill(checkpoint.encoder, encoder_weights(weights, config.num_hidden_layers, config.num_attention_heads), bundle)
    for name, entry in bundle.manifest.heads.items():
        head = onnx.load(bundle.directory / entry.file)
        embedding = checkpoint.encoder.embeddings.word
        module = build_head(entry.task, len(entry.labels), config, embedding, activation_in(head))
        found = float_weights(head)
        fill(module, {key: transposed(key, values) for key, values in found.items()}, bundle)
        checkpoint.heads[name] = Head(entry.spec, module, dict(entry.metrics))
    return checkpoint


def activation_in(head: onnx.ModelProto) -> Activation:
    """Return the activation between the two layers of a classifier's graph; tanh for other heads."""
    operators = {node.op_type for node in head.graph.node}
    return next((activation for activation, name in ACTIVATION_OPERATORS.items() if name in operators), "tanh")


def float_weights(model: onnx.ModelProto) -> Weights:
    """Return the constants of a graph by name; integers are multiplied by their scale, and smoothing is undone."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights: Weights = {}
    for name, values in constants.items():
        if values.dtype == np.int8:
            # a table [V, H] has a scale per row, a matrix [in, out] one per column
            scale = constants[f"{name}.scale"]
            values = values * (scale.reshape(-1, 1) if name == "embeddings.word" else scale)
        weights[name] = values.astype(np.float32)
    for node in model.graph.node:
        if node.op_type == "Mul" and node.input[1].endswith(".smoothing"):
            undo_smoothing(model, node, weights)
    return weights


def undo_smoothing(model: onnx.ModelProto, node: onnx.NodeProto, weights: Weights) -> None:
    """Multiply the rows of the next products by the factors that smoothing divided by (exporting/smoothquant.py)."""
    integers = {n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[0] == node.output[0]}
    for product in model.graph.node:
        if product.op_type == "MatMulIntegerToFloat" and product.input[0] in integers:
            weights[product.input[1]] = weights[product.input[1]] * weights[node.input[1]][:, None]


def config_of(bundle: Bundle, model: onnx.ModelProto, weights: Weights) -> EncoderConfig:
    """Return the shape of an encoder from its graph."""
    norm = next(node for node in model.graph.node if node.op_type in NORMS)
    positions, longest = len(weights["embeddings.position"]), bundle.manifest.encoder.max_length
    width = weights["embeddings.word"].shape[1]
    return EncoderConfig(
        vocab_size=len(weights["embeddings.word"]),
        hidden_size=bundle.manifest.encoder.hidden_size,
        num_hidden_layers=bundle.manifest.encoder.layers,
        num_attention_heads=head_count(model),
        intermediate_size=weights["layers.0.intermediate.weight"].shape[1],
        max_position_embeddings=positions,
        trained_length=longest if longest < positions else None,
        type_vocab_size=len(weights["embeddings.segment"]),
        layer_norm_eps=helper.get_node_attr_value(norm, "epsilon"),
        pad_token_id=bundle.tokenizer.pad_id,
        embedding_size=width if width != bundle.manifest.encoder.hidden_size else None,
    )


def head_count(model: onnx.ModelProto) -> int:
    """Return the number of attention heads of an encoder's graph."""
    attention = next(node for node in model.graph.node if node.op_type in HEAD_COUNT)
    count: int = helper.get_node_attr_value(attention, HEAD_COUNT[attention.op_type])
    return count


def encoder_weights(weights: Weights, layers: int, heads: int) -> Weights:
    """Rename the constants of an encoder's graph to those of its module; query, key and value become one matrix."""
    ours = {f"embeddings.{table}.weight": weights[f"embeddings.{table}"] for table in ("word", "position", "segment")}
    ours |= {key: transposed(key, values) for key, values in weights.items()}
    first = "embeddings.project" if "embeddings.project.weight" in weights else "embeddings.norm"
    for layer in range(layers):
        name, before = f"layers.{layer}", f"layers.{layer - 1}.output_norm" if layer else first
        ours[f"{name}.query_key_value.weight"] = query_key_value(weights, name, heads)
        put_back(ours, f"{name}.attention_output", before, f"{name}.query_key_value")
        put_back(ours, f"{name}.output", f"{name}.attention_norm", f"{name}.intermediate")
    return ours


def query_key_value(weights: Weights, name: str, heads: int) -> NDArray[np.float32]:
    """Return the matrix [3 H, H] of a layer, from one constant or from three."""
    if f"{name}.query_key_value.weight" in weights:
        return apart(weights[f"{name}.query_key_value.weight"], heads)
    return np.concatenate([weights[f"{name}.{part}.weight"].T for part in ("query", "key", "value")])


def apart(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return [3 H, in] from [in, heads * 3 * size], the parts of each head side by side (packed_encoder.py)."""
    width, size = weight.shape[0], weight.shape[1] // (3 * heads)
    return weight.reshape(width, heads, 3, size).transpose(2, 1, 3, 0).reshape(-1, width)


def put_back(weights: Weights, owner: str, norm: str, reader: str) -> None:
    """Move a bias that a norm carries back to its layer (exporting/encoder_builder.py); older bundles have none."""
    carried = weights.pop(f"{owner}.carried", None)
    if carried is not None:
        weights[f"{owner}.bias"] = carried
        weights[f"{norm}.bias"] = weights[f"{norm}.bias"] - carried
        weights[f"{reader}.bias"] = weights[f"{reader}.bias"] + weights[f"{reader}.weight"] @ carried


def transposed(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Transpose a weight: a graph has [in, out], a linear module [out, in]."""
    return values.T if values.ndim == 2 and name.endswith(".weight") else values


def fill(module: nn.Module, weights: Weights, bundle: Bundle) -> None:
    """Copy `weights` into a module by name; a tied decoder belongs to the encoder and is left out."""
    for name, parameter in module.named_parameters():
        if name.startswith("decoder."):
            continue
        if name not in weights or weights[name].shape != tuple(parameter.shape):
            raise TrainingError(
                f"{bundle.directory} has no weight {name} of shape {tuple(parameter.shape)}; export it again"
            )
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
