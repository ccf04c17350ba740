"""If these fail, int8 loses more than rounding does: a sum saturates, a scale is wrong, or floats remain."""

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from training.errors import ExportError
from training.exporting import int8_operators
from training.exporting.graph_builder import ATTENTION_OPSET, Graph, Value
from training.exporting.int8_operators import GELU, SYMMETRIC, Grid, quantize_rows
from training.exporting.quantize import Floats, Quantized, check_quantized, linear, quantize_columns, quantize_table


def weights(seed: int, rows: int, columns: int) -> Floats:
    """Draw weights with outliers, which is where a scale goes wrong."""
    drawn: Floats = np.random.default_rng(seed).standard_t(3, (rows, columns)).astype(np.float32)
    return drawn


def product_session(weight: Floats, grid: Grid) -> onnxruntime.InferenceSession:
    graph = Graph()
    rows, step = quantize_rows(graph, "x", len(weight), grid)
    quantized = Quantized(rows, step, graph.constant("zero", np.uint8(grid.zero)), None)
    zeros = graph.constant("zeros", np.zeros(weight.shape[1], np.float32))
    linear(graph, quantized, weight, "weight", int8_operators.linear(int8_operators.rescale()), zeros)
    graph.add("Identity", graph.nodes[-1].output[0], out="y")
    values: list[Value] = [("x", TensorProto.FLOAT, ["m", len(weight)])]
    outputs: list[Value] = [
        ("y", TensorProto.FLOAT, ["m", weight.shape[1]]),
        ("integers", TensorProto.UINT8, ["m", len(weight)]),
    ]
    model = graph.model("product", values, outputs, {}, ATTENTION_OPSET)
    return onnxruntime.InferenceSession(model.SerializeToString())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1 << 32), rows=st.integers(1, 65), columns=st.integers(1, 9))
def test_columns_cannot_saturate(seed: int, rows: int, columns: int) -> None:
    """vpmaddubsw adds two products of 8 bits in 16: neighbors of one sign may sum to 128 at most."""
    weight = weights(seed, rows, columns)
    integers, scale = quantize_columns(weight)
    even = np.concatenate([integers, np.zeros_like(integers[: rows % 2])]).astype(int)
    for half in (even.clip(min=0), -even.clip(max=0)):
        assert 255 * (half[0::2] + half[1::2]).max() <= 32767
    assert np.abs(integers * scale - weight).max() <= 0.5001 * scale.max()


@pytest.mark.parametrize("size", [(32, 64), (384, 48), (65, 7)])
def test_integer_products_are_exact(size: tuple[int, int]) -> None:
    """Against int64, at the worst there is: activations at either end, in the pattern of a column's signs."""
    weight = weights(0, *size)
    integers, scale = quantize_columns(weight)
    worst = np.where(integers.T > 0, 127.0, -128.0).astype(np.float32)
    worst = np.concatenate([worst, -worst, np.abs(worst)]).clip(-127, 127)
    y, quantized = product_session(weight, SYMMETRIC).run(["y", "integers"], {"x": worst})
    exact = (quantized.astype(np.int64) - SYMMETRIC.zero) @ integers.astype(np.int64)
    np.testing.assert_allclose(y, exact * scale, rtol=1e-6)


@pytest.mark.parametrize("grid", [SYMMETRIC, GELU])
def test_activations_are_off_by_half_a_step(grid: Grid) -> None:
    values = weights(1, 50, 32) * np.float32(3)
    if grid is GELU:
        values = torch.nn.functional.gelu(torch.tensor(values)).numpy()
    (integers,) = product_session(weights(2, 32, 4), grid).run(["integers"], {"x": values})
    peak = values.max(1) if grid is GELU else np.abs(values).max(1)
    step = peak / grid.above
    if grid is GELU:
        step = np.maximum(step, 0.17 / grid.zero)
    error = np.abs((integers.astype(int) - grid.zero) * step[:, None] - values)
    assert (error <= 0.501 * step[:, None]).all()


def test_a_row_of_zeros_stays_zero() -> None:
    values = np.zeros((3, 32), np.float32)
    values[1] = 1
    (y,) = product_session(weights(3, 32, 5), SYMMETRIC).run(["y"], {"x": values})
    assert (y[[0, 2]] == 0).all() and (y[1] != 0).all()


def test_rows_of_an_embedding() -> None:
    table = np.concatenate([weights(4, 20, 32), np.zeros((1, 32), np.float32)])
    integers, scale = quantize_table(table)
    assert (np.abs(integers * scale[:, None] - table) <= 0.501 * scale[:, None]).all()


def test_a_float_product_that_was_left_is_found() -> None:
    graph = Graph()
    graph.add("MatMul", "x", graph.constant("w", weights(5, 8, 8)), out="y")
    shape: list[int | str] = ["m", 8]
    model = graph.model("net", [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, shape)], {})
    with pytest.raises(ExportError, match=r"0 integer products, expected 1, and the float weights \['w'\]"):
        check_quantized(model, 1)
