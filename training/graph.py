"""Building an ONNX graph node by node.

A BERT encoder is some twenty nodes a layer; written directly, each is the fused operator that ONNX Runtime has for it,
and nothing depends on what an exporter and a fusion pass make of the traced network.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from training.errors import ExportError

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
OPSET = 21  # the first whose QuantizeLinear takes a scale for each row
MOST_BYTES = (1 << 31) - 1  # of a protobuf message

Array = NDArray[Any] | np.generic
Value = tuple[str, int, list[int | str]]
"""Name, element type and shape of an input or output."""


class Graph:
    """Nodes and constants; every method returns the name of the tensor it makes."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}

    def constant(self, name: str, array: Array) -> str:
        """Hold `array` under `name`; the same name again is the same constant."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def add(self, operator: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node with one output."""
        out = out or f"{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], out, domain=domain, **attributes))
        return out

    def model(self, name: str, inputs: list[Value], outputs: list[Value], metadata: dict[str, Any]) -> ModelProto:
        """Return the checked model; raise ExportError if it exceeds what one file can hold."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="bertheads")
        helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
        if model.ByteSize() > MOST_BYTES:
            raise ExportError(f"{name} has {model.ByteSize()} bytes, expected at most {MOST_BYTES}; export it as fp16")
        checker.check_model(model)
        return model
