"""int8: one scale per column of weights, one per row of activations at run time, and integer products.

Scales per row make the answer of a row independent of its batch, unlike one scale for the whole tensor as in dynamic
quantization. They need no calibration data. Products are 8-bit unsigned times 8-bit signed, summed in 32 bits, so
they are exact. But CPUs without VNNI (AVX2) add *pairs* of products in 16 bits with saturation (vpmaddubsw). Columns
are scaled so that no pair can saturate. This gives the same integers on every CPU, at almost the full eight bits;
halving all weights, the usual `reduce_range`, loses one bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from training.errors import ExportError
from training.exporting.graph_builder import OURS, Function, Graph

Floats = NDArray[np.float32]
MAX_INT8 = 127
"""Maximum of a weight, and of the sum of two neighbors of the same sign: 255 * 127 fits into 16 bits."""


def quantize_columns(weight: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return integers [K, N] and the scale [N] of each column; neighbors along K are the pairs."""
    even = np.concatenate([weight, np.zeros_like(weight[: len(weight) % 2])])
    largest = np.abs(weight).max(axis=0)
    for half in (even.clip(min=0), -even.clip(max=0)):
        largest = np.maximum(largest, (half[0::2] + half[1::2]).max(axis=0))
    # Rounding may raise both of a pair by a half; with one step of room their sum is at most 128, and 255 * 128 fits.
    scale = np.maximum(largest / MAX_INT8, np.finfo(np.float32).tiny).astype(np.float32)
    return np.round(weight / scale).astype(np.int8), scale


def quantize_table(table: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Return integers [V, H] and the scale [V] of each row of an embedding, shared with its tied decoder."""
    integers, scale = quantize_columns(table.T)
    return np.ascontiguousarray(integers.T), scale


@dataclass(frozen=True)
class Quantized:
    """An activation as integers [..., K], with the scale [..., 1] of each row."""

    integers: str
    scale: str
    zero: str
    smoothing: Floats | None
    """Factors that the channels were multiplied with, [K]."""


def linear(
    graph: Graph, rows: Quantized, weight: Floats, name: str, function: Function, *inputs: str, **attributes: Any
) -> list[str]:
    """Call `function`, made by int8_operators.linear, with quantized rows [..., K] and a constant [K, N].

    The constant is quantized here. `inputs` are the inputs after those of the product.
    """
    if rows.smoothing is not None:
        weight = weight / rows.smoothing[:, None]
    integers, scale = quantize_columns(weight)
    constants = graph.constant(name, integers), graph.constant(f"{name}.scale", scale), rows.zero
    return graph.call(function, rows.integers, rows.scale, *constants, *inputs, **attributes)


def check_quantized(model: ModelProto, products: int) -> None:
    """Raise ExportError unless there are `products` integer products and no float products with constants."""
    constants: dict[str, Any] = {tensor.name: tensor for tensor in model.graph.initializer}
    found = sum(node.domain == OURS and node.op_type.startswith("Linear") for node in model.graph.node)
    left = [
        name
        for node in model.graph.node
        if node.op_type in ("MatMul", "Gemm")
        for name in node.input
        if name in constants and constants[name].data_type != TensorProto.INT8 and len(constants[name].dims) == 2
    ]
    if found != products or left:
        raise ExportError(
            f"{model.graph.name} has {found} integer products, expected {products}, and the float weights {left}, "
            "expected none; report this as a defect of the export"
        )
