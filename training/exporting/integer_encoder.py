"""The encoder in int8, for CPU: every activation that a product reads is also available as integers."""

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from models.encoder import Layer
from training.exporting import int8_operators
from training.exporting.encoder_builder import LENGTHS, PARTS, EncoderBuilder, array
from training.exporting.int8_operators import GELU, SYMMETRIC, zero
from training.exporting.quantize import Quantized, linear, quantize_table
from training.exporting.smoothquant import smoothing_factors


class IntegerEncoderBuilder(EncoderBuilder):
    """Adds an encoder to a graph, in int8; `_integers` has the integers of activations.

    Hidden states are [T, H] for the T tokens of all rows.
    """

    lengths = TensorProto.INT64

    def build(self, vocab_size: int) -> None:
        """Add all nodes, from the inputs to `vectors`."""
        hidden = self.config.hidden_size
        self._smoothing = smoothing_factors(self.encoder, vocab_size)
        self._quantize = int8_operators.quantize(hidden)
        self._linear = int8_operators.linear(int8_operators.rescale())
        self._linear_add_norm = int8_operators.linear(int8_operators.add_norm_quantize(hidden))
        self._linear_gelu = int8_operators.linear(int8_operators.gelu_quantize(self.config.intermediate_size))
        self._integers: dict[str, Quantized] = {}
        """Integers of activations, by name."""
        graph = self.graph
        flat = graph.add("Reshape", "attention_mask", graph.constant("last_axis", np.array([-1])))
        is_token = graph.add("Cast", flat, to=TensorProto.BOOL)
        self.ids, self.segments = (graph.add("Compress", name, is_token) for name in (self.ids, self.segments))
        counts = graph.add("CumSum", flat, graph.constant("first_axis", np.array(0)))
        # Among the packed tokens, a position is the number of tokens before it.
        one = graph.constant("one", np.array(1))
        self._read_positions = graph.add("Sub", graph.add("Gather", counts, "positions"), one)
        super().build(vocab_size)

    def _position_vectors(self, table: str) -> str:
        """Return the vectors of the positions, [T, H]."""
        graph = self.graph
        places = graph.add("NonZero", "attention_mask")  # [2, T]
        return graph.add("Gather", table, graph.add("Gather", places, graph.constant("column", np.array(1))))

    def _read(self, hidden: str) -> str:
        """Select the positions: [T, H] → [N, H]."""
        return self.graph.add("Gather", hidden, self._read_positions)

    def _words(self, table: NDArray[np.float32]) -> str:
        graph = self.graph
        integers, scale = quantize_table(table)
        gathered = graph.add("Gather", graph.constant("embeddings.word", integers), self.ids)
        scales = graph.add("Gather", graph.constant("embeddings.word.scale", scale[:, None]), self.ids)
        return graph.add("Mul", graph.add("Cast", gathered, to=TensorProto.FLOAT), scales)

    def _attention(self, hidden: str, layer: Layer, name: str) -> str:
        graph, rows = self.graph, self._rows(hidden)
        bias = self._bias(layer.query_key_value, f"{name}.query_key_value", layer.attention_output.bias)
        query_key_value = [
            linear(graph, rows, array(weight).T, f"{name}.{part}.weight", self._linear, part_bias)[0]
            for part, weight, part_bias in zip(
                PARTS, layer.query_key_value.weight.chunk(3), graph.split(bias, 3), strict=True
            )
        ]
        return graph.call(int8_operators.packed_attention(), *query_key_value, LENGTHS, heads=layer.heads)[0]

    def _add_norm(
        self, rows: str, weight: Tensor, name: str, residual: str, norm: nn.LayerNorm, out: str, carried: Tensor | None
    ) -> str:
        smoothing = self._smoothing[out]
        inputs = *self._gain_and_shift(norm, out, carried), self.graph.constant(f"{out}.smoothing", smoothing)
        hidden, integers, step = linear(
            self.graph,
            self._rows(rows),
            array(weight).T,
            f"{name}.weight",
            self._linear_add_norm,
            residual,
            *inputs,
            epsilon=norm.eps,
        )
        self._integers[hidden] = Quantized(integers, step, zero(self.graph, SYMMETRIC), smoothing)
        return hidden

    def _project(self, rows: str, product: nn.Linear, name: str, carried: Tensor | None) -> str:
        weight, bias = array(product.weight).T, self._shift(product, name, carried)
        return linear(self.graph, self._rows(rows), weight, f"{name}.weight", self._linear, bias, outs=[name])[0]

    def _intermediate(self, hidden: str, weight: Tensor, name: str, bias: str) -> str:
        rows = self._rows(hidden)
        integers, step = linear(self.graph, rows, array(weight).T, f"{name}.weight", self._linear_gelu, bias)
        self._integers[integers] = Quantized(integers, step, zero(self.graph, GELU), None)
        return integers

    def _rows(self, values: str) -> Quantized:
        """Return an activation as integers, for the left side of a product."""
        if values not in self._integers:
            graph, smoothing = self.graph, self._smoothing.get(values)
            smooth = values
            if smoothing is not None:
                smooth = graph.add("Mul", values, graph.constant(f"{values}.smoothing", smoothing))
            integers, step = graph.call(self._quantize, smooth)
            self._integers[values] = Quantized(integers, step, zero(self.graph, SYMMETRIC), smoothing)
        return self._integers[values]
