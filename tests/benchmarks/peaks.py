"""What the machine can do at most: one large product in ONNX Runtime on all usable cores, in int8 and in float32."""

import time
from typing import Literal

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle
from models.row import Row
from service.cores import usable_cores

SIDE = 2048
REPEATS = 7


def product_peak(kind: Literal["int8", "fp32"]) -> float:
    """Operations a second (two a multiply-add), best of some runs."""
    integer = kind == "int8"
    left = np.ones((SIDE, SIDE), np.uint8 if integer else np.float32)
    right = np.ones((SIDE, SIDE), np.int8 if integer else np.float32)  # constant: packed once, as weights are
    operator, out = ("MatMulInteger", TensorProto.INT32) if integer else ("MatMul", TensorProto.FLOAT)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["product"])],
        "peak",
        [helper.make_tensor_value_info("left", helper.np_dtype_to_tensor_dtype(left.dtype), [SIDE, SIDE])],
        [helper.make_tensor_value_info("product", out, [SIDE, SIDE])],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        session.run(None, {"left": left})
        seconds.append(time.perf_counter() - began)
    return 2.0 * SIDE**3 / min(seconds)


def needed_operations(bundle: Bundle, row: Row) -> float:
    """Operations of the encoder's products for a row: no padding, and of the last layer what the head reads."""
    encoder = bundle.manifest.encoder
    width, tokens, read = encoder.hidden_size, len(row.input_ids), len(row.positions)
    inner = 4 * width  # BERT's feed-forward
    before = 3 * width * width  # query, key, value
    after = width * width + 2 * width * inner
    rows = encoder.layers * before * tokens + after * ((encoder.layers - 1) * tokens + read)
    return 2.0 * (rows + encoder.layers * 2 * width * tokens * tokens)
