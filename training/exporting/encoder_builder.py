"""An encoder as nodes of a graph, in fp32; integer_encoder.py and packed_encoder.py override parts of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
from torch import Tensor, nn

from models.encoder import Embeddings, Encoder, Layer
from training.exporting.graph_builder import MICROSOFT, Graph

PARTS = ("query", "key", "value")
LENGTHS = "lengths"


def array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a weight as float32, from any precision."""
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return values


class EncoderBuilder:
    """Adds an encoder to a graph, in fp32.

    Hidden states are [B, S, H] up to the attention of the last layer, and [N, H] after it: values that no head reads
    are not computed. For a classifier, this saves an eighth of all products. A hidden state already contains the bias
    of the next addition (`carried`), and the bias of the product between them subtracts it again. This saves two
    additions per layer. The carried biases stay in the graph, unused, for reading the weights back.
    """

    lengths = TensorProto.INT32
    """The element type that attention needs."""
    ids, segments = "input_ids", "token_type_ids"
    dtype: type[np.floating[Any]] = np.float32

    def __init__(self, encoder: Encoder) -> None:
        self.graph = Graph()
        self.encoder = encoder
        self.config = encoder.config

    def build(self, vocab_size: int) -> None:
        """Add all nodes, from the inputs to `vectors`."""
        graph = self.graph
        counts = graph.add("ReduceSum", "attention_mask", graph.constant("last_axis", np.array([-1])), keepdims=0)
        graph.add("Cast", counts, out=LENGTHS, to=self.lengths)
        layers = [layer for layer in self.encoder.layers if isinstance(layer, Layer)]
        carried = [layer.attention_output.bias for layer in layers] + [None]
        hidden = self._embeddings(self.encoder.embeddings, vocab_size, carried[0])
        for number, layer in enumerate(layers):
            hidden = self._layer(hidden, layer, f"layers.{number}", carried[number + 1])
        graph.add("Cast", hidden, out="vectors", to=TensorProto.FLOAT)  # a cast to float32, which ONNX Runtime removes

    def _embeddings(self, embeddings: Embeddings, vocab_size: int, carried: Tensor | None) -> str:
        graph = self.graph
        positions = self._position_vectors(self._weight("embeddings.position", embeddings.position.weight))
        segments = graph.add("Gather", self._weight("embeddings.segment", embeddings.segment.weight), self.segments)
        words = self._words(array(embeddings.word.weight)[:vocab_size])
        summed = graph.add("Add", graph.add("Add", words, segments), positions)
        if isinstance(embeddings.project, nn.Linear):
            normed = self._norm(summed, embeddings.norm, "embeddings.norm", None)
            return self._project(normed, embeddings.project, "embeddings.project", carried)
        return self._norm(summed, embeddings.norm, "embeddings.norm", carried)

    def _layer(self, hidden: str, layer: Layer, name: str, carried: Tensor | None) -> str:
        """Add a layer; the output of the last one carries no bias, and is computed only at the positions."""
        graph = self.graph
        graph.constant(f"{name}.attention_output.carried", array(layer.attention_output.bias))
        graph.constant(f"{name}.output.carried", array(layer.output.bias))
        mixed = self._attention(hidden, layer, name)
        if carried is None:
            mixed, hidden = self._read(mixed), self._read(hidden)
        output = layer.attention_output.weight, f"{name}.attention_output"
        hidden = self._add_norm(
            mixed, *output, hidden, layer.attention_norm, f"{name}.attention_norm", layer.output.bias
        )
        bias = self._bias(layer.intermediate, f"{name}.intermediate", layer.output.bias)
        wide = self._intermediate(hidden, layer.intermediate.weight, f"{name}.intermediate", bias)
        return self._add_norm(
            wide, layer.output.weight, f"{name}.output", hidden, layer.output_norm, f"{name}.output_norm", carried
        )

    def _read(self, hidden: str) -> str:
        """Select the positions: [B, S, H] → [N, H]."""
        flat = self.graph.constant("flat", np.array([-1, self.config.hidden_size]))
        return self.graph.add("Gather", self.graph.add("Reshape", hidden, flat), "positions")

    # The methods below depend on the precision.

    def _position_vectors(self, table: str) -> str:
        """Return the vectors of the positions, [S, H]."""
        zero = self.graph.constant("zero", np.array([0]))
        return self.graph.add("Slice", table, zero, self.graph.add("Shape", self.ids, start=1, end=2), zero)

    def _words(self, table: NDArray[np.float32]) -> str:
        return self.graph.add("Gather", self.graph.constant("embeddings.word", table.astype(self.dtype)), self.ids)

    def _attention(self, hidden: str, layer: Layer, name: str) -> str:
        weights = layer.query_key_value.weight.chunk(3)
        parts = zip(PARTS, weights, strict=True)
        query, key, value = [self._multiply(hidden, weight, f"{name}.{part}") for part, weight in parts]
        bias = self._bias(layer.query_key_value, f"{name}.query_key_value", layer.attention_output.bias)
        inputs = query, key, value, bias, LENGTHS
        return self.graph.add("MultiHeadAttention", *inputs, domain=MICROSOFT, num_heads=layer.heads)

    def _add_norm(
        self, rows: str, weight: Tensor, name: str, residual: str, norm: nn.LayerNorm, out: str, carried: Tensor | None
    ) -> str:
        """Add norm(residual + rows * weight), under the name `out`."""
        summed = self.graph.add("Add", self._multiply(rows, weight, name), residual)
        return self._norm(summed, norm, out, carried)

    def _project(self, rows: str, product: nn.Linear, name: str, carried: Tensor | None) -> str:
        """Add a product under its name; its bias includes the carried one."""
        bias = self._shift(product, name, carried)
        return self.graph.add("Add", self._multiply(rows, product.weight, name), bias, out=name)

    def _intermediate(self, hidden: str, weight: Tensor, name: str, bias: str) -> str:
        return self.graph.add("BiasGelu", self._multiply(hidden, weight, name), bias, domain=MICROSOFT)

    def _multiply(self, rows: str, weight: Tensor, name: str) -> str:
        return self.graph.add("MatMul", rows, self._weight(f"{name}.weight", weight.T))

    def _norm(self, values: str, norm: nn.LayerNorm, name: str, carried: Tensor | None) -> str:
        gain, shift = self._gain_and_shift(norm, name, carried)
        return self.graph.add("LayerNormalization", values, gain, shift, out=name, axis=-1, epsilon=norm.eps)

    def _gain_and_shift(self, norm: nn.LayerNorm, name: str, carried: Tensor | None) -> tuple[str, str]:
        return self._weight(f"{name}.weight", norm.weight), self._shift(norm, name, carried)

    def _shift(self, module: nn.LayerNorm | nn.Linear, name: str, carried: Tensor | None) -> str:
        return self._weight(f"{name}.bias", module.bias if carried is None else module.bias + carried)

    def _bias(self, linear: nn.Linear, name: str, carried: Tensor) -> str:
        """Return the bias of a product whose left side carries another bias."""
        return self._weight(f"{name}.bias", linear.bias.float() - linear.weight.float() @ carried.float())

    def _weight(self, name: str, tensor: Tensor) -> str:
        return self.graph.constant(name, array(tensor).astype(self.dtype))
