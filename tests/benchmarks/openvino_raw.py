"""OpenVINO in a loop, the other raw engine: python -m tests.benchmarks.openvino_raw CHECKPOINT TEXTS [SECONDS].

Runs where torch, onnxruntime, openvino and nncf are. The network of a checkpoint (its classify head) is quantized to
int8 by NNCF with the texts for calibration, and compiled for throughput; rows are tokenized beforehand and sorted, so
that hardly anything is padded. Prints rows/s and tokens/s of the best batch size.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openvino  # type: ignore[import-not-found]  # of an environment of its own
import torch
from nncf import Dataset, ModelType, quantize  # type: ignore[import-not-found]
from torch import Tensor, nn

from models.batch import pad
from models.checkpoint import Checkpoint, read_checkpoint
from models.row import Row

BATCHES = (1, 2, 4, 8, 16)


class Classifier(nn.Module):
    """Ids, segments and mask [B, S] → logits [B, labels]."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder = checkpoint.encoder
        self.head = next(head.module for head in checkpoint.heads.values())

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(input_ids, token_type_ids, attention_mask)[:, 0])
        return logits


def main(directory: Path, texts: Path, seconds: float) -> None:
    checkpoint = read_checkpoint(directory)
    rows = sorted(rows_of(checkpoint, texts), key=lambda row: len(row.input_ids))
    compiled = compile_int8(Classifier(checkpoint).eval(), rows, checkpoint.tokenizer.pad_id)
    found = [measure(compiled, rows, checkpoint.tokenizer.pad_id, size, seconds) for size in BATCHES]
    sys.stdout.write(json.dumps(max(found, key=lambda each: float(each["rows_per_s"]))) + "\n")


def rows_of(checkpoint: Checkpoint, texts: Path) -> Iterator[Row]:
    for line in texts.read_text(encoding="utf8").splitlines():
        ids = checkpoint.tokenizer.encode(json.loads(line)["text"]).ids
        yield checkpoint.tokenizer.single_row(ids, [0])


def compile_int8(model: nn.Module, rows: list[Row], pad_id: int) -> Any:
    examples = [pad([row.key], pad_id).inputs for row in rows]
    first = {name: torch.from_numpy(values) for name, values in examples[-1].items()}
    converted = openvino.convert_model(model, example_input=first)
    quantized = quantize(converted, Dataset(examples), model_type=ModelType.TRANSFORMER)
    return openvino.Core().compile_model(quantized, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})


def measure(compiled: Any, rows: list[Row], pad_id: int, size: int, seconds: float) -> dict[str, float]:
    batches = [pad([row.key for row in rows[i : i + size]], pad_id).inputs for i in range(0, len(rows), size)]
    queue = openvino.AsyncInferQueue(compiled)
    for batch in batches:
        queue.start_async(batch)
    queue.wait_all()
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        for batch in batches:
            queue.start_async(batch)
        queue.wait_all()
        done += 1
    taken = time.perf_counter() - began
    tokens = sum(len(row.input_ids) for row in rows)
    return {"batch": size, "rows_per_s": done * len(rows) / taken, "tokens_per_s": done * tokens / taken}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 3.0)
