"""Whatever answers the inputs of a head: a checkpoint in torch, a bundle in ONNX Runtime, a service over HTTP.

All three go through the task code of models/ (the service on its side), so that a figure measured on one holds for the
others, except for what export, quantisation and batching change in the logits. Several in this process may answer as
one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from models.bundle import Bundle
from models.classification import PairInput
from models.errors import InputError
from models.row import Encoded, Row
from models.runtime import Precision
from models.session import Session, pad
from models.task import HeadSpec, Logits
from models.tasks import TASKS, AnyTask
from models.tokenizer import Tokenizer
from training.errors import EvaluationError
from training.text.corpus import vocabulary_hash
from training.text.examples import PairExample, TextExample

if TYPE_CHECKING:  # torch takes seconds to import, and a bundle needs none
    from torch import Tensor

    from models.checkpoint import Checkpoint, Head
    from models.encoder import Encoder

BATCH_TOKENS = 2048  # of a batch in process, padding included


def input_of(example: TextExample | PairExample) -> str | PairInput:
    """Return what a classifier is asked."""
    if isinstance(example, TextExample):
        return example.text
    return PairInput(text=example.text_a, text_pair=example.text_b)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to the input at `index`, as the service gives it."""

    index: int
    answer: Any
    logits: Logits | None
    """[positions, labels], where the predictor has them."""


class Predictor(Protocol):
    """Answers the inputs of one head or several."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """What cuts its texts; None if that is not known."""

    def head(self, name: str) -> HeadSpec:
        """Return what the head is; raise EvaluationError naming those that exist."""

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        """Answer every input once, in any order; `parameters` are laid over the head's defaults."""


class LocalPredictor(ABC):
    """A predictor in this process: encode all inputs, run them in batches of like length, decode."""

    def __init__(self, heads: Mapping[str, HeadSpec], tokenizer: Tokenizer, max_length: int) -> None:
        self.heads = dict(heads)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._tasks: dict[str, AnyTask] = {
            name: TASKS[spec.task](tokenizer, spec, max_length) for name, spec in heads.items()
        }

    @abstractmethod
    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        """Return the logits [positions, labels] of each row."""

    def head(self, name: str) -> HeadSpec:
        return self.heads[checked(name, self.heads)]

    def task(self, name: str) -> AnyTask:
        """Return what encodes and decodes for a head; raise EvaluationError naming those that exist."""
        return self._tasks[checked(name, self.heads)]

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        task = self.task(head)
        parsed = task.parse_parameters(parameters)
        encoded = [_encode(task, index, one, parsed) for index, one in enumerate(inputs)]
        for batch in like_length(encoded):
            outputs = iter(self.run(head, [row for index in batch for row in encoded[index].rows]))
            for index in batch:
                logits = np.concatenate([next(outputs) for _ in encoded[index].rows])
                yield Prediction(index, task.decode(encoded[index], logits, parsed), logits)


class BundlePredictor(LocalPredictor):
    """The heads of a bundle, as the service runs them, on the encoder of one precision (by default the session's)."""

    def __init__(self, bundle: Bundle, precision: Precision | None = None, threads: int = 1) -> None:
        heads = {name: head.spec for name, head in bundle.manifest.heads.items()}
        super().__init__(heads, bundle.tokenizer, bundle.manifest.encoder.max_length)
        self._session = Session(bundle, precision=precision, threads=threads)

    def run(self, head: str, rows: Sequence[Row]) -> list[Logits]:
        return self._session.run([(head, row) for row in rows])


class CheckpointPredictor(LocalPredictor):
    """Heads in torch over one encoder, wherever their weights are; dropout is off while it predicts."""

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

        batch = pad(rows, self._pad_id)
        length = batch["input_ids"].shape[1]
        flat = [number * length + column for number, row in enumerate(rows) for column in row.positions]
        device = next(self._encoder.parameters()).device
        return {name: torch.from_numpy(a).to(device) for name, a in (batch | {"positions": np.array(flat)}).items()}


class MeanPredictor(LocalPredictor):
    """Several predictors as one, for the heads that all of them have: the mean of their logits, by temperature each.

    That is the geometric mean of their probabilities, whether a head chooses by softmax, by sigmoids, or a span. Raise
    EvaluationError for members that cut or name things differently.
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


def checked(name: str, heads: Mapping[str, object]) -> str:
    """Return `name` if there is such a head; else raise EvaluationError naming those that exist."""
    if name not in heads:
        raise EvaluationError(f"there is no head {name!r}, expected one of {', '.join(sorted(heads))}; name one")
    return name


def _encode(task: AnyTask, index: int, one: Any, parameters: Any) -> Encoded[Any]:
    try:
        return task.encode(one, parameters)
    except InputError as error:
        place = error.field.replace("inputs", f"inputs[{index}]", 1)
        raise InputError(place, error.message) from None


def like_length(encoded: Sequence[Encoded[Any]]) -> Iterator[list[int]]:
    """Yield batches of indices: longest first, so that memory runs out at once or never; an input is never divided."""
    longest = [max(len(row.input_ids) for row in one.rows) for one in encoded]
    batch: list[int] = []
    rows = 0
    for index in sorted(range(len(encoded)), key=lambda index: -longest[index]):
        if batch and (rows + len(encoded[index].rows)) * longest[batch[0]] > BATCH_TOKENS:
            yield batch
            batch, rows = [], 0
        batch.append(index)
        rows += len(encoded[index].rows)
    if batch:
        yield batch
