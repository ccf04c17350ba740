"""The graph with which a GPU chooses tokens from the logits of masks (models/choices.py).

    logits[n,V] temperature[1] count[1] places[m,2]  →  tokens[n,count] scores[n,count] targets[m]

`tokens` have the highest logits of each row, best first, and `scores` are their probabilities (softmax over a row).
`targets` are the probabilities at `places`, each a row and a token. One graph serves every bundle, so it is a file of
models/. To write it after a change: python -m training.exporting.choices_graph
"""

from onnx import ModelProto, TensorProto

from models.choices import GRAPH
from training.exporting.graph_builder import Graph, Value

INPUTS: list[Value] = [
    ("logits", TensorProto.FLOAT, ["n", "V"]),
    ("temperature", TensorProto.FLOAT, [1]),
    ("count", TensorProto.INT64, [1]),
    ("places", TensorProto.INT64, ["m", 2]),
]
OUTPUTS: list[Value] = [
    ("tokens", TensorProto.INT64, ["n", "count"]),
    ("scores", TensorProto.FLOAT, ["n", "count"]),
    ("targets", TensorProto.FLOAT, ["m"]),
]


def choices_model() -> ModelProto:
    """Return the graph; no operator in it needs cuDNN, unlike ReduceLogSumExp."""
    graph = Graph()
    scaled = graph.add("Div", "logits", "temperature")
    tokens = graph.top(scaled, "count", out="tokens")
    scores = graph.add("Softmax", scaled, axis=-1)
    graph.add("GatherElements", scores, tokens, out="scores", axis=-1)
    graph.add("GatherND", scores, "places", out="targets")
    return graph.model("choices", INPUTS, OUTPUTS, {})


if __name__ == "__main__":
    GRAPH.write_bytes(choices_model().SerializeToString())
