"""If this fails, the graph in models/ is not the one that its source describes."""

import onnx

from models.choices import GRAPH
from training.exporting.choices_graph import choices_model


def test_the_graph_in_models_is_what_the_source_makes() -> None:
    assert onnx.load(GRAPH).graph == choices_model().graph, "run python -m training.exporting.choices_graph"
