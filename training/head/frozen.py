"""A head on a frozen encoder: the serving session encodes the texts, in seconds and without PyTorch."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.onnx_runtime import Graph, Precision, metadata_json, read_signature
from models.row import Row
from models.session import Session
from models.task import HeadSpec, TaskName
from models.task import Trained as TrainedRows
from models.task_registry import TASKS
from training.evaluation.predictors import input_of
from training.finetuning.calibration import Calibration
from training.finetuning.finetune_recipe import DEFAULTS
from training.finetuning.regression import Floats, HeadWeights, learn
from training.run.progress import progress, tell
from training.text.examples import Example, PairExample, TextExample, labels_of

THREADS = len(os.sched_getaffinity(0))
BATCH = 32


@dataclass(frozen=True)
class Learned:
    """A head that was trained on the vectors of a base."""

    base: Bundle
    precision: Precision
    spec: HeadSpec
    weights: HeadWeights
    calibration: Calibration

    @property
    def encoder(self) -> Path:
        """The encoder graph whose vectors the head reads."""
        return self.base.directory / self.base.manifest.encoder.files[self.precision]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of that encoder, which its heads contain."""
        return str(metadata_json(read_signature(Graph.read(self.encoder)).metadata, "encoder", self.encoder))


def train_frozen(
    base: Bundle, name: str, task: TaskName, max_length: int, training: Sequence[Example], validation: Sequence[Example]
) -> Learned:
    """Fit a classifier on `training`, and its temperature on `validation`, from the served vectors."""
    labels = labels_of(training)
    spec = HeadSpec(task, labels, dict(DEFAULTS.get(task, {})), trained=TrainedRows(max_length=max_length))
    session = Session(base, threads=THREADS)
    weights = learn(read_vectors(session, rows_of(spec, base, training)), classes(training, labels))
    logits = weights.logits(read_vectors(session, rows_of(spec, base, validation)))
    calibration = Calibration.of(logits, classes(validation, labels))
    if calibration.remark:
        tell(f"heads.{name}: {calibration.remark}")
    return Learned(base, session.precision, replace(spec, temperature=calibration.temperature), weights, calibration)


def classes(examples: Sequence[Example], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the index of the label of each example [n]."""
    numbers = {label: number for number, label in enumerate(labels)}
    labeled = [one for one in examples if isinstance(one, TextExample | PairExample)]
    return np.array([numbers[str(one.label)] for one in labeled], np.int64)


def rows_of(spec: HeadSpec, base: Bundle, examples: Sequence[Example]) -> list[Row]:
    """Encode each example as one row, cut at the row length of the head."""
    task: Any = TASKS[spec.task](base.tokenizer, spec, spec.trained.max_length or base.manifest.encoder.max_length)
    parameters = task.parse_parameters({"truncation": "right"})
    inputs = [input_of(one) for one in examples if isinstance(one, TextExample | PairExample)]
    return [task.encode(one, parameters).rows[0] for one in inputs]


def read_vectors(session: Session, rows: Sequence[Row]) -> Floats:
    """Return the vectors [n, H] of [CLS]; rows of similar lengths are computed together."""
    vectors = np.zeros((len(rows), session.hidden_size), np.float32)
    order = np.argsort([len(row.input_ids) for row in rows], kind="stable").tolist()
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for places in progress(batches, "batches"):
        vectors[places] = session.vectors([rows[place] for place in places])
    return vectors
