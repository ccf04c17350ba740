"""LitServe around our session: python -m tests.benchmarks.litserve_service BUNDLE PORT [onnxruntime-alone]."""

import sys
from pathlib import Path
from typing import Any

import litserve  # type: ignore[import-not-found]  # of an environment of its own

from models import onnx_runtime
from models.cgroup import usable_cores
from models.classification import ScoredLabel
from tests.benchmarks.classifier import Classifier
from tests.kernels.sessions import LEFT_OUT, opening_with


class Service(litserve.LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        with opening_with(LEFT_OUT if sys.argv[3:] else onnx_runtime.KERNELS):
            self.classifier = Classifier(Path(sys.argv[1]))

    def decode_request(self, request: dict[str, str]) -> str:
        return request["inputs"]

    def predict(self, texts: list[str]) -> list[list[ScoredLabel]]:
        return self.classifier.answer(texts)

    def encode_response(self, output: list[ScoredLabel]) -> Any:  # of a type that is named it would make a schema
        return [output]


if __name__ == "__main__":
    api = Service(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=usable_cores(), timeout=60)
    server.run(port=int(sys.argv[2]), generate_client_file=False)
