"""Selects the requested tokens of a fill-mask head on the GPU, because all logits of one BERT mask are 122 KB.

`Row.wanted` says which tokens a row requests. The result for a row is [2 * positions, tokens], float32: first the token
ids for each position, then, in the same order, their probabilities over the whole vocabulary. On CPU no copy to the
host is needed, so a session there returns all logits.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnxruntime import OrtValue

from models.errors import BundleError
from models.onnx_runtime import Device, Graph, open_graph
from models.task import Logits, softmax

GRAPH = Path(__file__).with_name("choices.onnx")
"""training/exporting/choices_graph.py describes what it computes."""
MAX_ERROR = 0.01
"""Maximum error of a probability."""


class Asked(NamedTuple):
    """The request of one row; the logits of all rows are concatenated."""

    positions: int
    wanted: tuple[int, ...]
    """As in Row: how many tokens, then the ids to choose among."""

    @property
    def targets(self) -> tuple[int, ...]:
        return self.wanted[1:]

    def places(self, start: int) -> NDArray[np.int64]:
        """Return [positions * targets, 2]: row and column of each target's logit, with rows counted from `start`."""
        rows = np.repeat(np.arange(start, start + self.positions), len(self.targets))
        return np.stack([rows, np.tile(np.array(self.targets, np.int64), self.positions)], axis=1)


class Chooser:
    """Selects tokens by their logits. Several threads may call it at once."""

    def __init__(self, device: Device) -> None:
        self._graph = open_graph(Graph.read(GRAPH), device)

    def choose(self, logits: OrtValue, temperature: float, asked: Sequence[Asked]) -> list[Logits]:
        """Return [2 * positions, tokens] for each of `asked`; `logits` [all positions, V] are on the device."""
        starts = np.cumsum([0, *(each.positions for each in asked)])
        places = np.concatenate([each.places(start) for each, start in zip(asked, starts[:-1], strict=True)])
        count = max((each.wanted[0] for each in asked if not each.targets), default=1)
        binding = self._graph.io_binding()
        binding.bind_ortvalue_input("logits", logits)
        binding.bind_cpu_input("temperature", np.array([temperature], np.float32))
        binding.bind_cpu_input("count", np.array([count], np.int64))
        binding.bind_cpu_input("places", places)
        for name in ("tokens", "scores", "targets"):
            binding.bind_output(name)
        self._graph.run_with_iobinding(binding)
        return list(_parted(asked, *binding.copy_outputs_to_cpu()))


def check_best(found: Logits, logits: Logits, temperature: float, place: str) -> None:
    """Raise BundleError, which begins with `place`, if the probability of a position's best token is wrong.

    `found` [2 * positions, 1] was selected on the device from `logits` [positions, V].
    """
    error = float(np.abs(found[len(logits) :, 0] - softmax(logits, temperature).max(axis=1)).max())
    if not error <= MAX_ERROR:
        raise BundleError(
            f"{place}: probabilities of the best tokens are off by {error:.3g}, expected at most {MAX_ERROR}; "
            "this GPU, its driver or its libraries compute something else: change them, or serve with --provider cpu"
        )


def _parted(asked: Sequence[Asked], tokens: NDArray[np.int64], scores: Logits, of_targets: Logits) -> Iterator[Logits]:
    """Yield the result of each of `asked`."""
    rows = np.cumsum([each.positions for each in asked])[:-1]
    places = np.cumsum([each.positions * len(each.targets) for each in asked])[:-1]
    parts = np.split(tokens, rows), np.split(scores, rows), np.split(of_targets, places)
    for each, ids, probabilities, at_places in zip(asked, *parts, strict=True):
        shape = each.positions, len(each.targets) or each.wanted[0]
        if each.targets:
            ids, probabilities = np.broadcast_to(each.targets, shape), at_places.reshape(shape)
        yield np.concatenate([ids[:, : shape[1]], probabilities[:, : shape[1]]], dtype=np.float32)
