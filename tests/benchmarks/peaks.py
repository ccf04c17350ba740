"""What the machine can do at most: one large product in ONNX Runtime, on all usable cores or on the GPU."""

import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.cgroup import usable_cores
from models.row import Row
from models.runtime import NAMES, Precision, Provider, prepare

SIDE: dict[Provider, int] = {"cpu": 2048, "cuda": 8192}
REPEATS = 7
LEFT = {"int8": np.uint8, "fp16": np.float16, "fp32": np.float32}
RIGHT = LEFT | {"int8": np.int8}
OUT = {"int8": TensorProto.INT32, "fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}


def product_peak(precision: Precision, provider: Provider = "cpu") -> float:
    """Operations a second (two a multiply-add), best of some runs; both sides and the product stay on the device."""
    prepare(provider)
    side = SIDE[provider]
    left = np.ones((side, side), LEFT[precision])
    right = np.ones((side, side), RIGHT[precision])  # constant: packed once, as weights are
    operator = "MatMulInteger" if precision == "int8" else "MatMul"
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", helper.np_dtype_to_tensor_dtype(left.dtype), [side, side])],
        [helper.make_tensor_value_info("product", OUT[precision], [side, side])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[NAMES[provider]])
    binding = session.io_binding()
    binding.bind_ortvalue_input("left", onnxruntime.OrtValue.ortvalue_from_numpy(left, provider, 0))
    binding.bind_output("product", provider)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        session.run_with_iobinding(binding)
        seconds.append(time.perf_counter() - began)
    return 2.0 * side**3 / min(seconds)


def needed_operations(bundle: Bundle, row: Row) -> float:
    """Operations of the encoder's products for a row: no padding, and of the last layer what the head reads."""
    encoder = bundle.manifest.encoder
    width, tokens, read = encoder.hidden_size, len(row.input_ids), len(row.positions)
    inner = 4 * width  # BERT's feed-forward
    before = 3 * width * width  # query, key, value
    after = width * width + 2 * width * inner
    rows = encoder.layers * before * tokens + after * ((encoder.layers - 1) * tokens + read)
    return 2.0 * (rows + encoder.layers * 2 * width * tokens * tokens)
