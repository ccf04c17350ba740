"""Building an ONNX graph node by node.

A BERT encoder is some twenty nodes a layer; written directly, each is the fused operator that ONNX Runtime has for it,
and nothing depends on what an exporter and a fusion pass make of the traced network.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, external_data_helper, helper, numpy_helper

from training.errors import ExportError

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
OPSET = 21  # the first whose QuantizeLinear takes a scale for each row
ATTENTION_OPSET = 24  # whose Attention takes the length of each row; for that of 25 ONNX Runtime has no kernel
MOST_BYTES = (1 << 31) - 1  # of a protobuf message

LARGE = 1 << 20  # bytes of a constant from which it is worth a file of its own

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

    def split(self, values: str, parts: int) -> list[str]:
        """Append a node that cuts the last axis of `values` into equal parts."""
        outs = [f"{values}.{number}" for number in range(parts)]
        self.nodes.append(helper.make_node("Split", [values], outs, values, axis=-1, num_outputs=parts))
        return outs

    def model(
        self, name: str, inputs: list[Value], outputs: list[Value], metadata: dict[str, Any], opset: int = OPSET
    ) -> ModelProto:
        """Return the checked model; raise ExportError if it exceeds what one file can hold."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="bertheads")
        helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
        if model.ByteSize() > MOST_BYTES:
            raise ExportError(f"{name} has {model.ByteSize()} bytes, expected at most {MOST_BYTES}; export it as fp16")
        checker.check_model(model)
        return model


def share_constants(models: Sequence[ModelProto], directory: Path) -> None:
    """Write large constants that several models hold to files in `directory`, each once, and take them out of these."""
    holders: dict[bytes, list[TensorProto]] = {}
    for model in models:
        for tensor in model.graph.initializer:
            if len(tensor.raw_data) >= LARGE:
                holders.setdefault(tensor.raw_data, []).append(tensor)
    for data, tensors in holders.items():
        if len(tensors) > 1:
            file = f"{tensors[0].name}.bin"
            (directory / file).write_bytes(data)
            for tensor in tensors:
                external_data_helper.set_external_data(tensor, file)
                tensor.ClearField("raw_data")


def place_constants(model: ModelProto, prefix: str) -> None:
    """Tell a model that the files of its constants lie at `prefix`, relative to its own."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = prefix + entry.value
