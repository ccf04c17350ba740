"""BentoML around our session: BUNDLE=DIR bentoml serve tests.benchmarks.bentoml_service:Service."""

import os
from pathlib import Path
from typing import Any

import bentoml  # type: ignore[import-not-found]  # of an environment of its own

from models.cgroup import usable_cores
from tests.benchmarks.classifier import Classifier


@bentoml.service(workers=usable_cores(), traffic={"timeout": 60})
class Service:
    def __init__(self) -> None:
        self.classifier = Classifier(Path(os.environ["BUNDLE"]))

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=1000)  # type: ignore[untyped-decorator]
    def classify(self, texts: list[str]) -> list[list[dict[str, Any]]]:
        return [[dict(choice) for choice in choices] for choices in self.classifier.answer(texts)]
