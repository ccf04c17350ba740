"""If these fail, an operator differs from its function, or its result depends on the processor or the batch."""

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from tests.kernels.libraries import AMX, VNNI
from training.exporting import int8_operators
from training.exporting.graph_builder import ATTENTION_OPSET, Function, Graph, Value

OTHER_TYPES = {"integers": TensorProto.UINT8, "rows": TensorProto.UINT8, "lengths": TensorProto.INT64}
CONSTANT = {"weight", "weight_scale", "zero"}

Arrays = dict[str, NDArray[Any]]


# ---- a graph of one call -------------------------------------------------------------------------------------------


def value(name: str, axes: int) -> Value:
    element = OTHER_TYPES.get(name.removeprefix("out."), TensorProto.FLOAT)
    return name, element, [f"{name}.{axis}" for axis in range(axes)]


def model_of(function: Function, inputs: Arrays, attributes: dict[str, Any]) -> ModelProto:
    graph = Graph()
    names = [graph.constant(name, inputs[name]) if name in CONSTANT else name for name in function.inputs]
    graph.call(function, *names, outs=[f"out.{name}" for name in function.outputs], **attributes)
    axes = inputs[function.inputs[0]].ndim
    takes = [value(name, inputs[name].ndim) for name in function.inputs if name not in CONSTANT]
    makes = [value(f"out.{name}", axes) for name in function.outputs]
    return graph.model("call", takes, makes, {}, ATTENTION_OPSET)


def session_of(model: ModelProto, library: Path | None, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def run(
    function: Function, inputs: Arrays, library: Path | None, threads: int = 1, **attributes: Any
) -> list[NDArray[Any]]:
    session = session_of(model_of(function, inputs, attributes), library, threads)
    found: list[NDArray[Any]] = session.run(
        [f"out.{name}" for name in function.outputs], {n: v for n, v in inputs.items() if n not in CONSTANT}
    )
    return found


def rows_of(function: Function, generator: np.random.Generator, rows: int, width: int) -> Arrays:
    """Return random inputs of a row operator, by name."""

    def draw(*sizes: int) -> NDArray[np.float32]:
        return generator.standard_t(4, sizes).astype(np.float32)

    drawn: Arrays = {}
    for name in function.inputs:
        if name in ("product", "values", "residual"):
            drawn[name] = draw(rows, width)
            if name == "residual" and width < 8:  # else a norm of so few places may divide rounding by rounding
                drawn[name] += np.arange(width, dtype=np.float32) * 64
        elif name == "scale":
            drawn[name] = np.abs(draw(rows, 1)) + np.float32(0.1)
        else:
            drawn[name] = draw(width)
    return drawn


ROW_FUNCTIONS: dict[str, Callable[[int], Function]] = {
    "rescale": lambda width: int8_operators.rescale(),
    "quantize": int8_operators.quantize,
    "add_norm_quantize": int8_operators.add_norm_quantize,
    "gelu_quantize": int8_operators.gelu_quantize,
}


def attributes_of(function: Function) -> dict[str, Any]:
    return {name: 1e-12 for name, _ in function.attributes}


def assert_alike(
    function: Function, found: list[NDArray[Any]], expected: list[NDArray[Any]], atol: float = 2e-6
) -> None:
    """Floats are equal except for rounding; integers are equal unless the float is halfway between two."""
    for name, mine, theirs in zip(function.outputs, found, expected, strict=True):
        assert mine.shape == theirs.shape
        if name == "integers":
            difference = np.abs(mine.astype(int) - theirs.astype(int))
            assert difference.max(initial=0) <= 1 and difference.sum() <= 1 + difference.size / 200
        else:
            np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=atol)


def attention(query: NDArray[Any], key: NDArray[Any], value: NDArray[Any], heads: int) -> NDArray[np.float64]:
    """Scaled dot-product attention of [S, H] in float64 (Vaswani et al., 2017)."""
    q, k, v = (each.astype(np.float64).reshape(len(each), heads, -1).swapaxes(0, 1) for each in (query, key, value))
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[2])
    weights = np.exp(scores - scores.max(2, keepdims=True))
    mixed: NDArray[np.float64] = weights / weights.sum(2, keepdims=True) @ v
    return mixed.swapaxes(0, 1).reshape(len(query), -1)


# ---- what they compute ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROW_FUNCTIONS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1 << 32), rows=st.integers(1, 40), width=st.integers(1, 200))
def test_row_operators_equal_their_onnx_functions(library: Path, name: str, seed: int, rows: int, width: int) -> None:
    function = ROW_FUNCTIONS[name](width)
    inputs = rows_of(function, np.random.default_rng(seed), rows, width)
    if name == "add_norm_quantize" and width == 1:  # there a norm divides rounding by rounding
        return
    found, expected = (run(function, inputs, each, **attributes_of(function)) for each in (library, None))
    assert_alike(function, found, expected)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1 << 32),
    lengths=st.lists(st.integers(0, 70) | st.integers(64, 200), min_size=1, max_size=4).filter(any),
    heads=st.integers(1, 4),
    size=st.sampled_from([3, 4, 8, 20, 32, 64]),
)
def test_attention_equals_its_onnx_function(
    library: Path, seed: int, lengths: list[int], heads: int, size: int
) -> None:
    inputs = rows_to_attend(np.random.default_rng(seed), lengths, heads * size)
    (found,), (expected,) = (
        run(int8_operators.packed_attention(), inputs, each, heads=heads) for each in (library, None)
    )
    assert found.shape == expected.shape == (sum(lengths), heads * size)
    for length, end in zip(lengths, accumulate(lengths), strict=True):
        if not length:
            continue
        row = slice(end - length, end)
        exact = attention(inputs["query"][row], inputs["key"][row], inputs["value"][row], heads)
        np.testing.assert_allclose(expected[row], exact, rtol=0, atol=3e-5)
        np.testing.assert_allclose(found[row], exact, rtol=0, atol=tolerance(library, length))


def rows_to_attend(generator: np.random.Generator, lengths: list[int], hidden: int) -> Arrays:
    shape = sum(lengths), hidden
    drawn: Arrays = {name: generator.normal(0, 1, shape).astype(np.float32) for name in ("query", "key", "value")}
    return drawn | {"lengths": np.array(lengths, np.int64)}


def numbers_of(library: Path, length: int) -> str:
    """Return the number format of attention: from 64 tokens on, that of AMX or VNNI if the processor has them."""
    name = library.parent.name.rpartition("-")[0]
    if name in ("best", "without", "clang"):
        name = "amx" if AMX else "vnni" if VNNI else ""
    return "float" if length < 64 else "amx" if name == "amx" else "vnni" if name.endswith("vnni") else "float"


def tolerance(library: Path, length: int) -> float:
    """Return the tolerance of attention: AMX has 8 significant bits, VNNI 11."""
    return {"amx": 0.05, "vnni": 5e-3, "float": 3e-5}[numbers_of(library, length)]


def test_attention_is_right_for_very_large_and_very_small_scores(library: Path) -> None:
    """Scores whose exponential overflows, and scores that are all far below zero."""
    for shift in (-300.0, 300.0):
        key = np.linspace(-1, 1, 5, dtype=np.float32)[:, None] * np.ones(16, np.float32) + np.float32(shift)
        inputs: Arrays = {"query": np.ones((5, 16), np.float32), "key": key, "lengths": np.array([4, 1])}
        inputs["value"] = np.arange(80, dtype=np.float32).reshape(5, 16)
        (found,), (expected,) = (
            run(int8_operators.packed_attention(), inputs, each, heads=1) for each in (library, None)
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("length", [5, 64, 65])
def test_attention_of_a_query_of_zeros_is_the_mean(library: Path, length: int) -> None:
    inputs = rows_to_attend(np.random.default_rng(8), [length], 32)
    inputs["query"][2] = 0
    (found,) = run(int8_operators.packed_attention(), inputs, library, heads=2)
    np.testing.assert_allclose(found[2], inputs["value"].mean(0), rtol=0, atol=tolerance(library, length))


def test_gelu_equals_the_formula_of_the_paper(library: Path) -> None:
    x = np.linspace(-30, 30, 4801, dtype=np.float32)[None]
    function = int8_operators.gelu_quantize(x.shape[1])
    inputs: Arrays = {"product": x, "scale": np.ones((1, 1), np.float32), "bias": np.zeros(x.shape[1], np.float32)}
    integers, step = run(function, inputs, library)
    exact = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x.astype(np.float64) + 0.044715 * x.astype(np.float64) ** 3)))
    assert np.abs((integers.astype(int) - int8_operators.GELU.zero) * step - exact).max() <= step.max() * 0.5001


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI, which whoever has AMX has")
@pytest.mark.parametrize(
    ("name", "transposed"),
    [("rescale", False), ("rescale", True), ("add_norm_quantize", False), ("gelu_quantize", False)],
)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1 << 32),
    rows=st.integers(1, 100),
    depth=st.sampled_from([1, 4, 12, 30, 64, 99, 104, 256, 312, 384]),
    width=st.integers(2, 150),
)
def test_products_equal_their_onnx_functions(
    library: Path, name: str, transposed: bool, seed: int, rows: int, depth: int, width: int
) -> None:
    function, inputs = product_of(name, transposed, np.random.default_rng(seed), rows, depth, width)
    found, expected = (run(function, inputs, each, **attributes_of(function)) for each in (library, None))
    assert_alike(function, found, expected)


def product_of(
    name: str, transposed: bool, generator: np.random.Generator, rows: int, depth: int, width: int
) -> tuple[Function, Arrays]:
    after = ROW_FUNCTIONS[name](width)
    inputs = rows_of(after, generator, rows, width)
    del inputs["product"]
    weight = generator.integers(-127, 128, (depth, width)).clip(-64, 63).astype(np.int8)  # no pair saturates
    inputs |= {
        "rows": generator.integers(0, 256, (rows, depth), np.uint8),
        "weight": np.ascontiguousarray(weight.T) if transposed else weight,
        "weight_scale": (np.abs(generator.standard_normal(width)) / depth / 1000).astype(np.float32),
        "zero": np.array(128, np.uint8),
    }
    return int8_operators.linear(after, transposed), inputs


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI")
def test_a_vocabulary_may_be_wider_than_the_limit_of_row_operators(best: Path) -> None:
    function, inputs = product_of("rescale", True, np.random.default_rng(6), 3, 8, 16390)
    found, expected = (run(function, inputs, each) for each in (best, None))
    assert_alike(function, found, expected)
    function, inputs = product_of("gelu_quantize", False, np.random.default_rng(6), 3, 8, 16390)
    with pytest.raises(Exception, match="exceeds 16384 rows or columns"):
        run(function, inputs, best)


@pytest.mark.skipif(not VNNI, reason="needs AVX-512 VNNI")
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("input", "message"), [("weight_scale", "its scale not"), ("rows", "as many elements")])
def test_a_product_that_does_not_fit_is_refused(best: Path, transposed: bool, input: str, message: str) -> None:
    function, inputs = product_of("rescale", transposed, np.random.default_rng(7), 3, 8, 20)
    inputs[input] = np.ascontiguousarray(inputs[input][..., :-1])
    with pytest.raises(Exception, match=message):
        run(function, inputs, best)


# ---- alone, in a batch, on several threads --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ROW_FUNCTIONS)
def test_a_row_alone_gives_the_same_bits(library: Path, name: str) -> None:
    function = ROW_FUNCTIONS[name](70)
    inputs = rows_of(function, np.random.default_rng(1), 50, 70)
    together = run(function, inputs, library, threads=3, **attributes_of(function))
    for row in (0, 17, 49):
        single = {key: values[row : row + 1] if len(values) == 50 else values for key, values in inputs.items()}
        for mine, theirs in zip(run(function, single, library, **attributes_of(function)), together, strict=True):
            np.testing.assert_array_equal(mine[0], theirs[row])


def test_attention_of_a_row_alone_gives_the_same_bits(library: Path) -> None:
    function, lengths = int8_operators.packed_attention(), [3, 63, 64, 150]
    inputs = rows_to_attend(np.random.default_rng(4), lengths, 64)
    (together,) = run(function, inputs, library, threads=3, heads=2)
    for length, end in zip(lengths, accumulate(lengths), strict=True):
        row = slice(end - length, end)
        single = {name: inputs[name][row] for name in function.inputs[:3]} | {"lengths": np.array([length])}
        np.testing.assert_array_equal(run(function, single, library, heads=2)[0], together[row])


def test_a_row_of_zeros_has_a_scale_of_zero(library: Path) -> None:
    integers, step = run(int8_operators.quantize(20), {"values": np.zeros((2, 20), np.float32)}, library)
    assert not step.any() and (integers == int8_operators.SYMMETRIC.zero).all()


def test_zero_rows_are_accepted(library: Path) -> None:
    assert run(int8_operators.quantize(20), {"values": np.zeros((0, 20), np.float32)}, library)[0].shape == (0, 20)
    for lengths in list[int](), [0], [0, 0]:
        inputs = rows_to_attend(np.random.default_rng(11), lengths, 8)
        assert run(int8_operators.packed_attention(), inputs, library, heads=2)[0].shape == (0, 8)


# ---- invalid inputs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (int8_operators.rescale(), {"bias": np.zeros(7, np.float32)}, "an input does not fit the rows"),
        (int8_operators.rescale(), {"scale": np.zeros((3, 1), np.float32)}, "an input does not fit the rows"),
        (int8_operators.rescale(), {"product": np.zeros((0, 0), np.float32)}, "a row has 0 columns"),
        (int8_operators.gelu_quantize(16385), {"product": np.zeros((1, 16385), np.float32)}, "expected 1 to 16384"),
        (int8_operators.add_norm_quantize(16385), {"product": np.zeros((1, 16385), np.float32)}, "expected 1 to 16384"),
    ],
)
def test_inputs_of_the_wrong_size_are_refused(best: Path, function: Function, wrong: Arrays, message: str) -> None:
    """They would be read beyond the end of an array."""
    inputs = rows_of(function, np.random.default_rng(2), 4, 8) | wrong
    with pytest.raises(Exception, match=message):
        run(function, inputs, best, **attributes_of(function))


@pytest.mark.parametrize(("length", "hidden"), [(8193, 8), (8192, 65)])
def test_a_row_beyond_the_limits_is_refused(best: Path, length: int, hidden: int) -> None:
    inputs = rows_to_attend(np.random.default_rng(12), [1, length], hidden)
    with pytest.raises(Exception, match="at most 8192 tokens"):
        run(int8_operators.packed_attention(), inputs, best, heads=1)


@pytest.mark.parametrize(
    ("lengths", "heads", "message"),
    [
        ([5], 1, "length of a row"),
        ([-1, 5], 1, "length of a row"),
        ([2, 3], 1, "length of a row"),
        ([1 << 62, 1 << 62], 1, "length of a row"),
        ([2, 1], 1, "fewer tokens than"),
        ([], 1, "fewer tokens than"),
        ([4], 3, "not all"),
    ],
)
def test_lengths_that_do_not_match_the_tokens_are_refused(
    best: Path, lengths: list[int], heads: int, message: str
) -> None:
    inputs = rows_to_attend(np.random.default_rng(9), [4], 8) | {"lengths": np.array(lengths, np.int64)}
    with pytest.raises(Exception, match=message):
        run(int8_operators.packed_attention(), inputs, best, heads=heads)
