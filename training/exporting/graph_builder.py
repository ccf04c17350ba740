"""Builds an ONNX graph node by node.

A BERT encoder has about twenty nodes per layer. Written directly, each is the fused operator of ONNX Runtime, and the
result does not depend on an exporter or a fusion pass.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    FunctionProto,
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    checker,
    external_data_helper,
    helper,
    numpy_helper,
)

from training.errors import ExportError

MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
OURS = "bertheads"  # operators that a graph defines as functions of others; kernels/ computes each in one pass
OPSET = 21  # the first version whose QuantizeLinear has a scale per row
ATTENTION_OPSET = 24  # its Attention has the length of each row; ONNX Runtime has no kernel for version 25
MAX_BYTES = (1 << 31) - 1  # maximum size of a protobuf message

LARGE = 1 << 20  # constants of this many bytes get their own file

Array = NDArray[Any] | np.generic
Value = tuple[str, int, list[int | str]]
"""Name, element type and shape of an input or output."""
Attribute = tuple[str, "AttributeProto.AttributeType"]


@dataclass(frozen=True)
class Function:
    """An operator of this project: its definition by other operators, and the functions that it calls."""

    definition: FunctionProto
    attributes: tuple[Attribute, ...]
    calls: dict[str, FunctionProto]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def inputs(self) -> list[str]:
        return list(self.definition.input)

    @property
    def outputs(self) -> list[str]:
        return list(self.definition.output)


class Graph:
    """Nodes and constants; every method returns the name of its output tensor."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._functions: dict[str, FunctionProto] = {}

    def constant(self, name: str, array: Array) -> str:
        """Add `array` as the constant `name`; an existing name is the same constant."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(array, order="C"), name)
        return name

    def add(self, operator: str, *inputs: str, out: str = "", domain: str = "", **attributes: Any) -> str:
        """Append a node with one output."""
        out = out or f"{operator}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], out, domain=domain, **attributes))
        return out

    def top(self, values: str, count: str, out: str) -> str:
        """Append a node that finds the `count` largest values of the last axis; return the name of their columns."""
        self.nodes.append(helper.make_node("TopK", [values, count], [f"{out}.values", out], out))
        return out

    def split(self, values: str, parts: int) -> list[str]:
        """Append a node that splits the last axis of `values` into equal parts."""
        outs = [f"{values}.{number}" for number in range(parts)]
        self.nodes.append(helper.make_node("Split", [values], outs, outs[0], axis=-1, num_outputs=parts))
        return outs

    def call(self, function: Function, *inputs: str, outs: Sequence[str] = (), **attributes: Any) -> list[str]:
        """Append a call of `function`, add it to the model, and return its outputs."""
        self.define(function)
        names = list(outs) or [f"{out}.{len(self.nodes)}" for out in function.outputs]
        self.nodes.append(helper.make_node(function.name, inputs, names, names[0], domain=OURS, **attributes))
        return names

    def refer(self, name: str, attribute: Attribute) -> None:
        """Bind an attribute of the last node to an attribute of the function that these nodes become."""
        self.nodes[-1].attribute.append(AttributeProto(name=name, ref_attr_name=attribute[0], type=attribute[1]))

    def define(self, function: Function) -> None:
        """Add a function to the model, called or not."""
        self._functions |= {function.name: function.definition} | function.calls

    def function(
        self, name: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: Attribute, domain: str = OURS
    ) -> Function:
        """Return these nodes and constants as a function."""
        constants = [helper.make_node("Constant", [], [key], value=held) for key, held in self._constants.items()]
        names = [attribute[0] for attribute in attributes]
        nodes = [*constants, *self.nodes]
        versions = opsets(ATTENTION_OPSET) if domain == OURS else opsets(OPSET)[:-1]
        definition = helper.make_function(domain, name, inputs, outputs, nodes, versions, names)
        return Function(definition, attributes, self._functions)

    def model(
        self, name: str, inputs: list[Value], outputs: list[Value], metadata: dict[str, Any], opset: int = OPSET
    ) -> ModelProto:
        """Return the checked model; raise ExportError if it is too large for one file."""
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info(*value) for value in inputs],
            [helper.make_tensor_value_info(*value) for value in outputs],
            list(self._constants.values()),
        )
        functions = list(self._functions.values())
        imports = opsets(opset)[: None if any(each.domain == OURS for each in functions) else -1]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=10, producer_name="bertheads", functions=functions
        )
        helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
        if model.ByteSize() > MAX_BYTES:
            raise ExportError(f"{name} has {model.ByteSize()} bytes, expected at most {MAX_BYTES}; export it as fp16")
        checker.check_model(model)
        return model


def opsets(version: int) -> list[OperatorSetIdProto]:
    """Return the versions of the operator sets of a graph, our own last."""
    return [helper.make_opsetid(domain, number) for domain, number in (("", version), (MICROSOFT, 1), (OURS, 1))]


def share_constants(models: Sequence[ModelProto], directory: Path) -> None:
    """Move large constants that several models share to files in `directory`, each once."""
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
    """Set the folder of a model's files of constants to `prefix`, relative to its own file."""
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = prefix + entry.value
