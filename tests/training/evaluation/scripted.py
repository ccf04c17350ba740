"""A predictor whose answers a test writes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from models.predictor import Prediction
from models.task import HeadSpec
from models.tokenizer import Tokenizer


class Answers:
    """Gives the answers in the order of the inputs, the last one first, and counts its calls."""

    def __init__(self, spec: HeadSpec, answers: Sequence[Any], tokenizer: Tokenizer | None = None) -> None:
        self.spec, self.answers, self.tokenizer = spec, answers, tokenizer
        self.calls = 0

    def head(self, name: str) -> HeadSpec:
        return self.spec

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        self.calls += 1
        for index in reversed(range(len(inputs))):
            yield Prediction(index, self.answers[index], None)


def ranked(labels: Sequence[str], scores: Sequence[float]) -> list[dict[str, Any]]:
    """An answer of classify."""
    pairs = sorted(zip(labels, scores, strict=True), key=lambda pair: -pair[1])
    return [{"label": label, "score": float(score)} for label, score in pairs]
