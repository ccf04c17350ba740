"""Our session with our tokenizing and decoding for other servers, so that only the server differs."""

from collections.abc import Sequence
from pathlib import Path

from models.bundle import read_bundle
from models.classification import Classify, ScoredLabel
from models.onnx_runtime import flush_denormals
from models.session import Session
from tests.benchmarks.workloads import WHOLE


class Classifier:
    """The first classify head of a bundle."""

    def __init__(self, directory: Path) -> None:
        flush_denormals()  # as ours does
        bundle = read_bundle(directory)
        self.head = next(name for name, head in bundle.manifest.heads.items() if head.task == "classify")
        spec = bundle.manifest.heads[self.head].spec
        self.task = Classify(bundle.tokenizer, spec, bundle.manifest.encoder.max_length)
        self.parameters = self.task.parse_parameters(WHOLE["classify"])
        self.session = Session(bundle)

    def answer(self, texts: Sequence[str]) -> list[list[ScoredLabel]]:
        """Return the labels of each text, all of them in one batch."""
        encoded = [self.task.encode(text, self.parameters) for text in texts]
        logits = self.session.run([(self.head, row) for each in encoded for row in each.rows])  # a row of each
        return [self.task.decode(each, row, self.parameters) for each, row in zip(encoded, logits, strict=True)]
