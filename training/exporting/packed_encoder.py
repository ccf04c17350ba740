"""The encoder in fp16, for CUDA: the tokens of all rows are packed end to end, so no padding is computed.

    input_ids[T] places[T] starts[B+1] offsets[B,S] positions[N]  →  vectors[N,H]

All inputs are int32. `places`: the index of each token in the table of summed position and segment vectors, which is
segment * max_length + position. `starts`: the first token of each row, and T. `offsets`: the index of each token in a
padded batch of B * S, then the indices of all padding. `positions`: the tokens to read, as indices in T.

PackedMultiHeadAttention runs only on CUDA, with FlashAttention (Dao, 2023) from compute capability 8.0 on. No kernel
there is chosen, compiled or planned for the shape of a batch. For CPU, the graph defines the same operator under a name
of equal length, which models.onnx_runtime writes over the first. So parity is measured on CPU with the file for CUDA.

EmbedLayerNormalization looks up a row in each of two tables, adds them, and normalizes the sum. It needs one launch;
Gather, Gather and SkipLayerNormalization need three. On CUDA it sums in fp32 (ONNX Runtime, pull request 28682).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto
from torch import nn

from models.encoder import Layer
from models.onnx_runtime import CPU_ATTENTION, CUDA_ATTENTION
from training.exporting.encoder_builder import EncoderBuilder, array
from training.exporting.graph_builder import MICROSOFT, Function, Graph, Value

INPUTS: list[Value] = [
    ("input_ids", TensorProto.INT32, ["T"]),
    ("places", TensorProto.INT32, ["T"]),
    ("starts", TensorProto.INT32, ["B1"]),
    ("offsets", TensorProto.INT32, ["B", "S"]),
    ("positions", TensorProto.INT32, ["N"]),
]
HEADS = ("num_heads", AttributeProto.INT)


class PackedEncoderBuilder(EncoderBuilder):
    """Adds an encoder to a graph: nine launches or products per layer, and three for the rest.

    Query, key and value are one product. SkipLayerNormalization adds residual, product and bias, and normalizes.
    """

    dtype = np.float16

    def build(self, vocab_size: int) -> None:
        """Add all nodes, from the inputs to `vectors`."""
        self.graph.define(padded_attention())
        layers = [layer for layer in self.encoder.layers if isinstance(layer, Layer)]
        hidden = self._embedded(vocab_size)
        for number, layer in enumerate(layers):
            hidden = self._packed_layer(hidden, layer, f"layers.{number}", is_last=number == len(layers) - 1)
        self.graph.add("Cast", hidden, out="vectors", to=TensorProto.FLOAT)

    def _embedded(self, vocab_size: int) -> str:
        """Return the output of the embeddings, [T, H]."""
        embeddings, graph = self.encoder.embeddings, self.graph
        position, segment = array(embeddings.position.weight), array(embeddings.segment.weight)
        # No node reads these; they are kept for reading the weights back (training/run/start_from.py).
        graph.constant("embeddings.position", position.astype(self.dtype))
        graph.constant("embeddings.segment", segment.astype(self.dtype))
        sums = np.concatenate([position + each for each in segment]).astype(self.dtype)
        words = graph.constant("embeddings.word", array(embeddings.word.weight)[:vocab_size].astype(self.dtype))
        places = graph.constant("embeddings.place", sums)
        tables = self._row("input_ids"), "", words, places, ""
        normed = self._table_norm(tables, embeddings.norm, "embeddings.norm", "", self._row("places"))
        if isinstance(embeddings.project, nn.Linear):
            return self._project(normed, embeddings.project, "embeddings.project", None)
        return normed

    def _packed_layer(self, hidden: str, layer: Layer, name: str, is_last: bool) -> str:
        mixed = self._attention(hidden, layer, name)
        if is_last:
            mixed = self.graph.add("Gather", mixed, "positions")
        added = self._product(mixed, layer.attention_output, f"{name}.attention_output")
        norm = layer.attention_norm, f"{name}.attention_norm"
        hidden = self._norm_at_positions(*added, hidden, *norm) if is_last else self._skip_norm(added, hidden, *norm)
        bias = self._weight(f"{name}.intermediate.bias", layer.intermediate.bias)
        wide = self._intermediate(hidden, layer.intermediate.weight, f"{name}.intermediate", bias)
        added = self._product(wide, layer.output, f"{name}.output")
        return self._skip_norm(added, hidden, layer.output_norm, f"{name}.output_norm")

    def _norm_at_positions(self, rows: str, bias: str, hidden: str, norm: nn.LayerNorm, name: str) -> str:
        """Add norm(hidden[positions] + rows + bias): [N, H].

        `positions` choose rows of `hidden`; row n of `rows` belongs to position n.
        """
        tables = self._row("positions"), "", hidden, rows, self._row(bias)
        return self._table_norm(tables, norm, name)

    def _table_norm(self, tables: Sequence[str], norm: nn.LayerNorm, name: str, *ids: str) -> str:
        """Add an EmbedLayerNormalization under a name; its output is [number of ids, H]."""
        inputs = *tables, *self._gain_and_shift(norm, name, None), *ids
        operator = "EmbedLayerNormalization"
        normed = self.graph.add(operator, *inputs, domain=MICROSOFT, epsilon=norm.eps, mask_index_type=0)
        return self.graph.add("Squeeze", normed, self._first_axis(), out=name)

    def _row(self, values: str) -> str:
        """Reshape [n] to [1, n], which launches no kernel."""
        return self.graph.add("Unsqueeze", values, self._first_axis())

    def _first_axis(self) -> str:
        return self.graph.constant("first_axis", np.array([0]))

    def _product(self, rows: str, linear: nn.Linear, name: str) -> tuple[str, str]:
        """Return a product, and the bias that is still to be added."""
        return self._multiply(rows, linear.weight, name), self._weight(f"{name}.bias", linear.bias)

    def _attention(self, hidden: str, layer: Layer, name: str) -> str:
        """Add attention, [T, H] → [T, H]: one product, whose columns are query, key and value of each head in turn."""
        graph, heads = self.graph, layer.heads
        weight = interleaved(array(layer.query_key_value.weight), heads).astype(self.dtype)
        product = graph.add("MatMul", hidden, graph.constant(f"{name}.query_key_value.weight", weight))
        shape = np.array([-1, heads, 3, self.config.hidden_size // heads])
        query_key_value = graph.add("Reshape", product, graph.constant("by_head", shape))
        bias = self._weight(f"{name}.query_key_value.bias", layer.query_key_value.bias)
        inputs = query_key_value, "", "", bias, "offsets", "starts"
        return graph.add(CUDA_ATTENTION, *inputs, domain=MICROSOFT, num_heads=heads)

    def _skip_norm(self, added: Sequence[str], residual: str, norm: nn.LayerNorm, name: str) -> str:
        """Add norm(residual + rows + bias) under a name."""
        rows, bias = added
        inputs = rows, residual, *self._gain_and_shift(norm, name, None), bias
        return self.graph.add("SkipLayerNormalization", *inputs, out=name, domain=MICROSOFT, epsilon=norm.eps)


def interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return [in, 3 H], with the three parts of each head side by side, from [3 H, in]: query, then key, then value."""
    width, size = weight.shape[1], weight.shape[0] // (3 * heads)
    return weight.reshape(3, heads, size, width).transpose(3, 1, 0, 2).reshape(width, -1)


def padded_attention() -> Function:
    """Return a function equal to PackedMultiHeadAttention: MultiHeadAttention on padded rows has a kernel for CPU.

    query [T, heads, 3, H / heads], bias [3 H], offsets [B, S], starts [B+1] → mixed [T, H].
    """
    graph = Graph()
    zero, one = graph.constant("zero", np.array([0])), graph.constant("one", np.array([1]))
    last = graph.constant("last", np.array([-1]))
    rows = graph.add("Transpose", "query", perm=[0, 2, 1, 3])
    rows = graph.add("Reshape", rows, graph.constant("flat", np.array([0, -1])))  # [T, 3 H]
    count = graph.add("Shape", "query", start=0, end=1)
    padded = graph.add("Cast", graph.add("Reshape", "offsets", last), to=TensorProto.INT64)
    tokens = graph.add("Slice", padded, zero, count)
    sources = graph.add("ConstantOfShape", graph.add("Shape", padded))  # int64 zeros would need an attribute
    sources = graph.add("Cast", sources, to=TensorProto.INT64)
    scalar = graph.add("Squeeze", count)
    numbers = graph.add("Range", graph.add("Squeeze", zero), scalar, graph.add("Squeeze", one))
    sources = graph.add("ScatterElements", sources, tokens, numbers, axis=0)
    shape = graph.add("Concat", graph.add("Shape", "offsets"), last, axis=0)
    apart = graph.split(graph.add("Reshape", graph.add("Gather", rows, sources), shape), 3)
    ends = graph.add("Slice", "starts", one, graph.constant("end", np.array([1 << 31])))
    lengths = graph.add("Sub", ends, graph.add("Slice", "starts", zero, last))
    mixed = graph.add("MultiHeadAttention", *apart, "bias", lengths, domain=MICROSOFT)
    graph.refer("num_heads", HEADS)
    flat = graph.add("Concat", last, graph.add("Shape", mixed, start=2, end=3), axis=0)
    graph.add("Gather", graph.add("Reshape", mixed, flat), tokens, out="mixed")
    inputs = ["query", "key", "value", "bias", "offsets", "starts"]
    return graph.function(CPU_ATTENTION, inputs, ["mixed"], HEADS, domain=MICROSOFT)
