"""The encoder and the heads of models/ as ONNX graphs, in the operators that ONNX Runtime is fastest with.

    encoder:  input_ids[B,S] token_type_ids[B,S] attention_mask[B,S] positions[N]  →  vectors[N,H]
    head:     vectors[n,H]  →  logits[n,C]

Ids, mask and positions (flat, row * S + column) are int64; vectors and logits are float32 in every precision. Rows are
padded on the right. In fp32 and fp16 padding is computed with the rest, and attention takes the length of each row,
which is what the fast kernels on CUDA ask for; in int8 only tokens are computed, which lie one row behind the other.
"""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from models.architectures import Activation
from models.config import EncoderConfig
from models.encoder import Embeddings, Encoder, Layer
from models.heads import ClassificationHead, MaskedTokenHead, TokenHead
from models.runtime import Precision
from models.task import HeadSpec
from training.exporting import int8_operators
from training.exporting.graph_builder import ATTENTION_OPSET, MICROSOFT, OPSET, Graph, Value
from training.exporting.int8_operators import GELU, SYMMETRIC, zero
from training.exporting.quantize import Quantized, check_quantized, linear, quantize_table
from training.exporting.smoothquant import smoothing_factors
from training.run.start_from import ACTIVATION_OPERATORS

PRODUCTS_IN_LAYER = 6  # query, key, value, attention output, intermediate, output
PARTS = ("query", "key", "value")
LENGTHS = "lengths"

ROWS: list[Value] = [
    ("input_ids", TensorProto.INT64, ["B", "S"]),
    ("token_type_ids", TensorProto.INT64, ["B", "S"]),
    ("attention_mask", TensorProto.INT64, ["B", "S"]),
    ("positions", TensorProto.INT64, ["N"]),
]


def encoder_model(encoder: Encoder, precision: Precision, vocab_size: int) -> ModelProto:
    """Return the graph of an encoder; ids from `vocab_size` on, which no tokenizer makes, are left out."""
    builder = (IntegerEncoderBuilder if precision == "int8" else EncoderBuilder)(encoder, precision)
    builder.build(vocab_size)
    config = encoder.config
    metadata = {
        "encoder": fingerprint(encoder),
        "max_length": config.max_position_embeddings,
        "layers": config.num_hidden_layers,
        "vocab_size": vocab_size,
        "packed": precision == "int8",
    }
    vectors: Value = ("vectors", TensorProto.FLOAT, ["N", config.hidden_size])
    opset = ATTENTION_OPSET if precision == "int8" else OPSET
    model = builder.graph.model("encoder", ROWS, [vectors], metadata, opset)
    if precision == "int8":
        projections = isinstance(encoder.embeddings.project, nn.Linear)
        check_quantized(model, PRODUCTS_IN_LAYER * config.num_hidden_layers + projections)
    return model


def head_model(
    head: nn.Module, spec: HeadSpec, encoder: str, config: EncoderConfig, vocab_size: int, int8: bool = False
) -> ModelProto:
    """Return the graph of a head that reads the encoder of this fingerprint.

    `int8` makes the decoder of a fill-mask head integer, the rest stays float.
    """
    graph = Graph()
    if isinstance(head, MaskedTokenHead):
        width = _masked_token(graph, head, vocab_size, int8)
    elif isinstance(head, ClassificationHead):
        pooled = _activation(graph, head.activation, _linear(graph, "vectors", head.pooler, "pooler"))
        width = head.classifier.out_features
        _linear(graph, pooled, head.classifier, "classifier", out="logits")
    else:
        assert isinstance(head, TokenHead), f"no graph for {type(head).__name__}"
        width = head.classifier.out_features
        _linear(graph, "vectors", head.classifier, "classifier", out="logits")
    metadata = {"encoder": encoder, "task": spec.task, "labels": spec.labels}
    vectors: Value = ("vectors", TensorProto.FLOAT, ["n", config.hidden_size])
    opset = ATTENTION_OPSET if int8 else OPSET
    return graph.model(spec.task, [vectors], [("logits", TensorProto.FLOAT, ["n", width])], metadata, opset)


def fingerprint(encoder: Encoder) -> str:
    """Return 16 hexadecimal digits of the hash of all weights: what ties heads to their encoder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + array(tensor).tobytes())
    return digest.hexdigest()[:16]


def array(tensor: Tensor) -> NDArray[np.float32]:
    """Return a weight as float32, whatever it was trained in."""
    values: NDArray[np.float32] = tensor.detach().float().cpu().numpy()
    return values


class EncoderBuilder:
    """Adds an encoder to a graph, in fp32 or fp16.

    Hidden states are [B, S, H] up to the attention of the last layer, and [N, H] from there on: what no head reads
    need not be computed, and for a classifier that is an eighth of all products. A hidden state already holds the bias
    of what is added to it next (`carried`), and the bias of the product that reads it in between takes that out again:
    two additions a layer less. The carried biases stay in the graph, unread, for who wants the weights back.
    """

    lengths = TensorProto.INT32
    """The element type that attention asks for."""
    ids, segments = "input_ids", "token_type_ids"

    def __init__(self, encoder: Encoder, precision: Precision) -> None:
        self.graph = Graph()
        self.encoder = encoder
        self.config = encoder.config
        self.fp16 = precision == "fp16"
        self.dtype: type[np.floating[Any]] = np.float16 if self.fp16 else np.float32

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
        if self.fp16:
            zero = graph.constant("zero", np.array([0]))
            hidden = graph.add("Slice", hidden, zero, graph.constant("last", np.array([-1])), zero)
        # The cast is one of float32 to float32 outside fp16, which ONNX Runtime removes.
        graph.add("Cast", hidden, out="vectors", to=TensorProto.FLOAT)

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
        """Add a layer; the output of the last one carries nothing, and is made at the positions only."""
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
        """[B, S, H] → [N, H], at the positions; in fp16 [N + 1, H], the first once more.

        On CPU a product of a single row sums in another order, and rounding to fp16 would make a step of its last bit.
        """
        graph = self.graph
        flat = graph.add("Reshape", hidden, graph.constant("flat", np.array([-1, self.config.hidden_size])))
        if not self.fp16:
            return graph.add("Gather", flat, "positions")
        zero, one = graph.constant("zero", np.array([0])), graph.constant("one", np.array([1]))
        first = graph.add("Slice", "positions", zero, one, zero)
        return graph.add("Gather", flat, graph.add("Concat", "positions", first, axis=0))

    # What follows depends on the precision.

    def _position_vectors(self, table: str) -> str:
        """[S, H]"""
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
        """Add a product under its name; its bias holds what is carried too."""
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
        """The bias of a product whose left side carries another bias."""
        return self._weight(f"{name}.bias", linear.bias.float() - linear.weight.float() @ carried.float())

    def _weight(self, name: str, tensor: Tensor) -> str:
        return self.graph.constant(name, array(tensor).astype(self.dtype))


class IntegerEncoderBuilder(EncoderBuilder):
    """The same in int8: every activation that a product reads has integers beside it.

    Hidden states are [T, H], of the T tokens of all rows.
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
        """Of activations, by their names."""
        graph = self.graph
        flat = graph.add("Reshape", "attention_mask", graph.constant("last_axis", np.array([-1])))
        is_token = graph.add("Cast", flat, to=TensorProto.BOOL)
        self.ids, self.segments = (graph.add("Compress", name, is_token) for name in (self.ids, self.segments))
        counts = graph.add("CumSum", flat, graph.constant("first_axis", np.array(0)))
        # Among the tokens alone, a position is the number of those before it.
        one = graph.constant("one", np.array(1))
        self._read_positions = graph.add("Sub", graph.add("Gather", counts, "positions"), one)
        super().build(vocab_size)

    def _position_vectors(self, table: str) -> str:
        """[T, H]"""
        graph = self.graph
        places = graph.add("NonZero", "attention_mask")  # [2, T]
        return graph.add("Gather", table, graph.add("Gather", places, graph.constant("column", np.array(1))))

    def _read(self, hidden: str) -> str:
        """[T, H] → [N, H], at the positions."""
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
        """What the left side of products is."""
        if values not in self._integers:
            graph, smoothing = self.graph, self._smoothing.get(values)
            smooth = values
            if smoothing is not None:
                smooth = graph.add("Mul", values, graph.constant(f"{values}.smoothing", smoothing))
            integers, step = graph.call(self._quantize, smooth)
            self._integers[values] = Quantized(integers, step, zero(self.graph, SYMMETRIC), smoothing)
        return self._integers[values]


def _masked_token(graph: Graph, head: MaskedTokenHead, vocab_size: int, int8: bool) -> int:
    transformed = graph.add("Gelu", _linear(graph, "vectors", head.transform, "transform"), domain=MICROSOFT)
    scale = graph.constant("norm.weight", array(head.norm.weight))
    shift = graph.constant("norm.bias", array(head.norm.bias))
    normed = graph.add("LayerNormalization", transformed, scale, shift, axis=-1, epsilon=head.norm.eps)
    table = array(head.decoder.weight)[:vocab_size]  # as in the encoder, so that a bundle holds it once
    bias = graph.constant("bias", array(head.bias)[:vocab_size])
    if int8:
        integers, scales = quantize_table(table)
        rows = graph.call(int8_operators.quantize(table.shape[1]), normed)
        decoder = graph.constant("embeddings.word", integers), graph.constant("embeddings.word.scale", scales)
        inputs = *rows, *decoder, zero(graph, SYMMETRIC), bias
        graph.call(int8_operators.linear(int8_operators.rescale(), transposed=True), *inputs, outs=["logits"])
    else:
        graph.add("Gemm", normed, graph.constant("embeddings.word", table), bias, out="logits", transB=1)
    return len(table)


def _activation(graph: Graph, activation: Activation, values: str) -> str:
    operator = ACTIVATION_OPERATORS[activation]
    return graph.add(operator, values, domain=MICROSOFT if operator == "Gelu" else "")


def _linear(graph: Graph, values: str, linear: nn.Linear, name: str, out: str = "") -> str:
    weight = graph.constant(f"{name}.weight", array(linear.weight).T)
    return graph.add("Gemm", values, weight, graph.constant(f"{name}.bias", array(linear.bias)), out=out)
