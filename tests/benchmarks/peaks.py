"""The peak of the machine: one large product in ONNX Runtime, on all usable cores or on the GPU."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.cgroup import usable_cores
from models.onnx_runtime import Device, Graph, Precision, Provider, open_graph
from models.row import Row

SIDE: dict[Provider, int] = {"cpu": 2048, "cuda": 8192}
REPEATS = 7
LEFT = {"int8": np.uint8, "fp16": np.float16, "fp32": np.float32}
RIGHT = LEFT | {"int8": np.int8}
OUT = {"int8": TensorProto.INT32, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}


def product_peak(precision: Precision, provider: Provider = "cpu") -> float:
    """Operations per second (two per multiply-add), best of some runs; both sides and the product stay on the device.

    Of random numbers: a GPU multiplies equal ones faster, since it takes less power. Raises BundleError if the provider
    does not work.
    """
    side = SIDE[provider]
    generator = np.random.default_rng(0)
    left = random_matrix(side, LEFT[precision], generator)
    right = left.view(RIGHT[precision])
    session = open_graph(_product(left, right, OUT[precision]), Device(provider), usable_cores())
    binding = session.io_binding()
    binding.bind_ortvalue_input("left", onnxruntime.OrtValue.ortvalue_from_numpy(left, provider, 0))
    binding.bind_output("product", provider)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(seconds)


def random_matrix(side: int, kind: type[Any], generator: np.random.Generator) -> NDArray[Any]:
    """[side, side], of all values for integers, normally distributed otherwise."""
    if np.issubdtype(kind, np.integer):
        bounds = np.iinfo(kind)
        return generator.integers(bounds.min, bounds.max, (side, side), kind, endpoint=True)
    return generator.standard_normal((side, side), np.float32).astype(kind)


def _product(left: NDArray[Any], right: NDArray[Any], out: int) -> Graph:
    """The right side is constant: packed once, as weights are."""
    operator = "MatMulInteger" if out == TensorProto.INT32 else "MatMul"
    shape = list(left.shape)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", helper.np_dtype_to_tensor_dtype(left.dtype), shape)],
        [helper.make_tensor_value_info("product", out, shape)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return Graph(Path("peak"), model.SerializeToString(), {})


def needed_operations(bundle: Bundle, row: Row) -> float:
    """Operations of the encoder's products for a row: no padding, and of the last layer what the head reads."""
    encoder = bundle.manifest.encoder
    width, tokens, read = encoder.hidden_size, len(row.input_ids), len(row.positions)
    inner = 4 * width  # BERT's feed-forward
    before = 3 * width * width  # query, key, value
    after = width * width + 2 * width * inner
    rows = encoder.layers * before * tokens + after * ((encoder.layers - 1) * tokens + read)
    return 2.0 * (rows + encoder.layers * 2 * width * tokens * tokens)
