"""The operations of an int8 encoder around its products, as functions of ONNX's own operators.

A graph that calls these functions runs on any ONNX Runtime, which inlines their nodes. If the library of kernels/ is
loaded, its operators of the same names are used instead: one pass over memory in place of six to eight. `linear` joins
the others with the product before them, for processors for which kernels/ has a product of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, TensorProto

from training.exporting.graph_builder import MICROSOFT, Function, Graph


@dataclass(frozen=True)
class Grid:
    """The range of the 256 integers of an activation: `zero` stands for 0, and `above` steps are above it."""

    name: str
    zero: int
    above: int


SYMMETRIC = Grid("symmetric", zero=128, above=127)
# GELU is never below -0.17, so 32 steps suffice below 0 if a step is at least 0.17 / 32.
GELU = Grid("gelu", zero=32, above=223)
MIN_GELU = 0.17

EPSILON = ("epsilon", AttributeProto.FLOAT)
HEADS = ("heads", AttributeProto.INT)


def rescale() -> Function:
    """product [..., N], scale [..., 1], bias [N] → values [..., N]."""
    graph = Graph()
    graph.add("Add", graph.add("Mul", "product", "scale"), "bias", out="values")
    return graph.function("Rescale", ["product", "scale", "bias"], ["values"])


def quantize(width: int) -> Function:
    """values [..., width] → integers [..., width], step [..., 1]: the value of one integer step, per row."""
    graph = Graph()
    quantize_rows(graph, "values", width, SYMMETRIC)
    return graph.function("Quantize", ["values"], ["integers", "step"])


def add_norm_quantize(width: int) -> Function:
    """product, scale, residual, gain, shift, smoothing; epsilon → hidden [..., width], and integers of it, smoothed."""
    graph = Graph()
    summed = graph.add("Add", graph.add("Mul", "product", "scale"), "residual")
    graph.add("LayerNormalization", summed, "gain", "shift", out="hidden", axis=-1)
    graph.refer("epsilon", EPSILON)
    quantize_rows(graph, graph.add("Mul", "hidden", "smoothing"), width, SYMMETRIC)
    inputs = ["product", "scale", "residual", "gain", "shift", "smoothing"]
    return graph.function("AddNormQuantize", inputs, ["hidden", "integers", "step"], EPSILON)


def gelu_quantize(width: int) -> Function:
    """product [..., width], scale, bias → integers of its GELU."""
    graph = Graph()
    expanded = graph.add("FastGelu", graph.add("Mul", "product", "scale"), "bias", domain=MICROSOFT)
    quantize_rows(graph, expanded, width, GELU)
    return graph.function("GeluQuantize", ["product", "scale", "bias"], ["integers", "step"])


def packed_attention() -> Function:
    """query, key, value [T, H] of packed rows, lengths [B]; heads → mixed [T, H]."""
    graph = Graph()
    zero, one = graph.constant("zero", np.array(0)), graph.constant("one", np.array(1))
    longest = graph.add("ReduceMax", "lengths", keepdims=0)
    ends = graph.add("Unsqueeze", "lengths", graph.constant("last_axis", np.array([-1])))
    inside = graph.add("Less", graph.add("Range", zero, longest, one), ends)  # [B, S]
    # The index of each token; for padding, the index of any token, because nothing attends to it.
    flat = graph.add("Reshape", graph.add("Cast", inside, to=TensorProto.INT64), graph.constant("flat", np.array([-1])))
    places = graph.add("Max", graph.add("Sub", graph.add("CumSum", flat, zero), one), zero)
    places = graph.add("Reshape", places, graph.add("Shape", inside))
    padded = [graph.add("Gather", values, places) for values in ("query", "key", "value")]
    # ONNX's own operator gives the same bits as MultiHeadAttention in half the time on CPU; int8 runs only there.
    mixed = graph.add("Attention", *padded, "", "", "", "lengths")
    graph.refer("q_num_heads", HEADS)
    graph.refer("kv_num_heads", HEADS)
    tokens = graph.add("Transpose", graph.add("NonZero", inside), perm=[1, 0])
    graph.add("GatherND", mixed, tokens, out="mixed")
    return graph.function("PackedAttention", ["query", "key", "value", "lengths"], ["mixed"], HEADS)


def linear(after: Function, transposed: bool = False) -> Function:
    """rows [..., K], scale [..., 1], weight [K, N], weight_scale [N], zero, and the other inputs of `after`.

    `transposed`: the weight is [N, K], like the rows of an embedding.
    """
    graph = Graph()
    weight = graph.add("Transpose", "weight", perm=[1, 0]) if transposed else "weight"
    multiply(graph, "rows", weight, "weight_scale", "zero", out="product")
    outs = graph.call(after, *after.inputs, outs=after.outputs)
    for attribute in after.attributes:
        graph.refer(attribute[0], attribute)
    name = "Linear" + "Transposed" * transposed + after.name.removeprefix("Rescale")
    inputs = ["rows", "scale", "weight", "weight_scale", "zero", *after.inputs[2:]]
    return graph.function(name, inputs, outs, *after.attributes)


def zero(graph: Graph, grid: Grid) -> str:
    """Return the constant that stands for 0."""
    return graph.constant(f"{grid.name}.zero", np.uint8(grid.zero))


def multiply(graph: Graph, rows: str, weight: str, weight_scale: str, zero: str, out: str = "") -> str:
    """Add the product of integers [..., K] and [K, N], times the scale [N] of each column."""
    one = graph.constant("one", np.float32(1))  # the operator has only one scale for all rows of the left side
    return graph.add("MatMulIntegerToFloat", rows, weight, one, weight_scale, zero, domain=MICROSOFT, out=out)


def quantize_rows(graph: Graph, values: str, width: int, grid: Grid) -> Sequence[str]:
    """Add `integers` and the `step` of each row [..., 1] of `values` [..., width].

    A row of zeros has step 0, so its integers do not matter.
    """
    axis = graph.constant("last_axis", np.array([-1]))
    size = graph.add("Abs", values) if grid is SYMMETRIC else values
    peak = graph.add("ReduceMax", size, axis, keepdims=1)
    inverse = graph.constant(f"{grid.name}.step", np.float32(1 / grid.above))
    step = graph.add("Mul", peak, inverse, out="" if grid is GELU else "step")
    if grid is GELU:
        graph.add("Max", step, graph.constant("gelu.least", np.float32(MIN_GELU / GELU.zero)), out="step")
    zeros = graph.add("Expand", zero(graph, grid), graph.add("Shape", "step"))
    graph.add("QuantizeLinear", values, "step", zeros, axis=-1, block_size=width, out="integers")
    return "integers", "step"
