"""The encoder and the heads of models/ as ONNX graphs, with the fastest operators of ONNX Runtime.

    encoder:  input_ids[B,S] token_type_ids[B,S] attention_mask[B,S] positions[N]  →  vectors[N,H]
    head:     vectors[n,H]  →  logits[n,C]

Ids, mask and positions (flat, row * S + column) are int64. Vectors and logits are float32 in every precision. Rows are
padded on the right. In fp32 padding is computed too, and attention gets the length of each row. In int8 only tokens are
computed, with all rows packed end to end. In fp16, for CUDA, the inputs are already packed (packed_encoder.py).
"""

import hashlib

from onnx import ModelProto, TensorProto
from torch import nn

from models.architectures import Activation
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import ClassificationHead, MaskedTokenHead, TokenHead
from models.onnx_runtime import Precision
from models.task import HeadSpec
from training.exporting import int8_operators
from training.exporting.encoder_builder import EncoderBuilder, array
from training.exporting.graph_builder import ATTENTION_OPSET, MICROSOFT, OPSET, Graph, Value
from training.exporting.int8_operators import SYMMETRIC, zero
from training.exporting.integer_encoder import IntegerEncoderBuilder
from training.exporting.packed_encoder import INPUTS, PackedEncoderBuilder
from training.exporting.quantize import check_quantized, quantize_table
from training.run.start_from import ACTIVATION_OPERATORS

BUILDERS: dict[Precision, type[EncoderBuilder]] = {
    "int8": IntegerEncoderBuilder,
    "fp16": PackedEncoderBuilder,
    "fp32": EncoderBuilder,
}
PRODUCTS_IN_LAYER = 6  # query, key, value, attention output, intermediate, output
PARTS = ("query", "key", "value")
LENGTHS = "lengths"

ROWS: list[Value] = [
    ("input_ids", TensorProto.INT64, ["B", "S"]),
    ("token_type_ids", TensorProto.INT64, ["B", "S"]),
    ("attention_mask", TensorProto.INT64, ["B", "S"]),
    ("positions", TensorProto.INT64, ["N"]),
]


def encoder_model(encoder: Encoder, precision: Precision, vocab_size: int, mark: str = "") -> ModelProto:
    """Return the graph of an encoder, without the ids from `vocab_size` on, which its tokenizer never produces.

    `mark` identifies the encoder to its heads, if that is not the fingerprint of these weights.
    """
    builder = BUILDERS[precision](encoder)
    builder.build(vocab_size)
    config = encoder.config
    metadata = {
        "encoder": mark or fingerprint(encoder),
        "max_length": config.max_position_embeddings,
        "layers": config.num_hidden_layers,
        "vocab_size": vocab_size,
        "packed": precision != "fp32",
    }
    vectors: Value = ("vectors", TensorProto.FLOAT, ["N", config.hidden_size])
    opset = ATTENTION_OPSET if precision == "int8" else OPSET
    model = builder.graph.model("encoder", INPUTS if precision == "fp16" else ROWS, [vectors], metadata, opset)
    if precision == "int8":
        projections = isinstance(encoder.embeddings.project, nn.Linear)
        check_quantized(model, PRODUCTS_IN_LAYER * config.num_hidden_layers + projections)
    return model


def head_model(
    head: nn.Module, spec: HeadSpec, encoder: str, config: EncoderConfig, vocab_size: int, int8: bool = False
) -> ModelProto:
    """Return the graph of a head for the encoder with this fingerprint.

    With `int8`, the decoder of a fill-mask head has integer weights; other parts stay float.
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
    """Return 16 hexadecimal digits of the hash of all weights, which tie heads to their encoder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + array(tensor).tobytes())
    return digest.hexdigest()[:16]


def _masked_token(graph: Graph, head: MaskedTokenHead, vocab_size: int, int8: bool) -> int:
    transformed = graph.add("Gelu", _linear(graph, "vectors", head.transform, "transform"), domain=MICROSOFT)
    scale = graph.constant("norm.weight", array(head.norm.weight))
    shift = graph.constant("norm.bias", array(head.norm.bias))
    normed = graph.add("LayerNormalization", transformed, scale, shift, axis=-1, epsilon=head.norm.eps)
    table = array(head.decoder.weight)[:vocab_size]  # equal to the encoder's, so a bundle stores it once
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
