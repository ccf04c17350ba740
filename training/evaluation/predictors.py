"""Predictors: a bundle (models/predictor.py), a checkpoint in torch, or a service over HTTP.

All three use the task code of models/ (the service in its own process). So a figure of one holds for the others, except
for what export, quantization and batching change in the logits. Several predictors in this process can answer as one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.batch import pad
from models.classification import PairInput
from models.predictor import LocalPredictor, Prediction
from models.row import Row
from models.task import HeadSpec, Logits
from models.tokenizer import Tokenizer
from training.errors import EvaluationError
from training.text.corpus import vocabulary_hash
from training.text.examples import PairExample, TextExample

if TYPE_CHECKING:  # torch takes seconds to import, and a bundle does not need it
    from torch import Tensor

    from models.checkpoint import Checkpoint, Head
    from models.encoder import Encoder


def input_of(example: TextExample | PairExample) -> str | PairInput:
    """Return the input for a classifier."""
    if isinstance(example, TextExample):
        return example.text
    return PairInput(text=example.text_a, text_pair=example.text_b)


class AnyPredictor(Protocol):
    """Answers the inputs of one head or several."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Its tokenizer; None if that is not known."""

    def head(self, name: str) -> HeadSpec:
        """Return the specification of a head; raise InputError or EvaluationError with the names of existing heads."""

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        """Answer every input once, in any order; `parameters` override the head's defaults."""


class CheckpointPredictor(LocalPredictor):
    """Heads in torch on one encoder, on any device; dropout is off during prediction."""

    def __init__(
        self,
        encoder: "Encoder",
        heads: Mapping[str, "Head"],
        tokenizer: Tokenizer,
        max_length: int | None = None,
    ) -> None:
        specs = {name: head.spec for name, head in heads.items()}
        super().__init__(specs, tokenizer, max_length or encoder.config.max_length)
        self._encoder = encoder
        self._pad_id = tokenizer.pad_id
        self._modules = {name: head.module for name, head in heads.items()}

    @classmethod
    def of(cls, checkpoint: "Checkpoint") -> "CheckpointPredictor":
        return cls(checkpoint.encoder, checkpoint.heads, checkpoint.tokenizer)

    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        import torch

        with torch.inference_mode():
            return self._run(head, rows)

    def _run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        modules = (self._encoder, self._modules[head])
        training = [module.training for module in modules]
        try:
            for module in modules:
                module.eval()
            logits: Tensor = modules[1](self._encoder(**self._batch(rows)))
        finally:
            for module, mode in zip(modules, training, strict=True):
                module.train(mode)
        ends = np.cumsum([len(row.positions) for row in rows])
        return np.split(logits.float().cpu().numpy(), ends[:-1])

    def _batch(self, rows: Sequence[Row]) -> "dict[str, Tensor]":
        import torch

        device = next(self._encoder.parameters()).device
        inputs = pad([row.key for row in rows], self._pad_id).read_all(rows)
        return {name: torch.from_numpy(values).to(device) for name, values in inputs.items()}


class MeanPredictor(LocalPredictor):
    """Several predictors as one, for their common heads: the mean of their logits, each divided by its temperature.

    This is the geometric mean of their probabilities, for softmax, sigmoids and spans. Raise EvaluationError for
    members with different vocabularies or labels.
    """

    def __init__(self, members: Sequence[LocalPredictor]) -> None:
        first, *others = members
        if len({vocabulary_hash(member.tokenizer) for member in members}) > 1:
            raise EvaluationError("the sources have different vocabularies, expected one; average those that agree")
        shared = {name: spec for name, spec in first.heads.items() if all(name in other.heads for other in others)}
        for name, spec in shared.items():
            for other in others:
                _check_same(name, spec, other.heads[name])
        heads = {name: replace(spec, temperature=1.0) for name, spec in shared.items()}
        super().__init__(heads, first.tokenizer, min(member.max_length for member in members))
        self._members = members

    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        each = [
            [logits / member.heads[head].temperature for logits in member.run(head, rows)] for member in self._members
        ]
        return [np.mean(of_row, axis=0, dtype=np.float32) for of_row in zip(*each, strict=True)]


def _check_same(name: str, first: HeadSpec, other: HeadSpec) -> None:
    if (first.task, first.labels, first.problem_type) != (other.task, other.labels, other.problem_type):
        kinds = [f"{spec.task} with {spec.labels}" for spec in (first, other)]
        if first.problem_type != other.problem_type:
            kinds = [f"{spec.task} ({spec.problem_type}) with {spec.labels}" for spec in (first, other)]
        raise EvaluationError(
            f"head {name!r} is {kinds[0]} in one source and {kinds[1]} in another, expected the same labels in the "
            "same order; average those that agree"
        )
