"""Early stopping: the best checkpoint of a run so far, and the evaluations since."""

from pathlib import Path

import numpy as np

from models.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from training.errors import TrainingError
from training.evaluation.metrics import headline
from training.run.atomic_files import damage, recover_directory, write_directory
from training.run.run_directory import copy_weights

NONE = float("-inf")
"""The value before any checkpoint."""


class Best:
    """The best checkpoint so far by the mean of the headline figures, for early stopping."""

    def __init__(self, directory: Path, patience: int) -> None:
        self.directory = directory
        self.patience = patience
        self.value = NONE
        self.since = 0
        self.step = 0

    @property
    def stale(self) -> bool:
        return bool(self.patience) and self.since >= self.patience

    def offer(self, figures: dict[str, dict[str, float]], checkpoint: Checkpoint, step: int) -> None:
        """Note the figures of `step`; with patience, write the checkpoint if it is the best so far."""
        value = float(np.mean([entry[headline(entry)] for entry in figures.values()])) if figures else 0.0
        self.since += 1
        self.since = 0 if value > self.value else self.since
        if value >= self.value:  # the last one among equals, because its steps were the smallest
            self.value, self.step = value, step
            if self.patience:
                write_directory(self.directory, lambda directory: write_checkpoint(checkpoint, directory))

    def restore(self, checkpoint: Checkpoint) -> None:
        if self.patience and self.value > NONE:
            copy_weights(read_checkpoint(self.directory), checkpoint)

    def state(self) -> list[float]:
        return [self.value, self.since, self.step]

    def load(self, state: list[float]) -> None:
        """Continue from `state`; raise TrainingError if its checkpoint is damaged."""
        self.value, self.since = state[0], int(state[1])
        self.step = int(state[2]) if len(state) > 2 else 0  # older runs did not store it
        recover_directory(self.directory)
        if self.patience and self.value > NONE and (found := damage(self.directory)):
            raise TrainingError(
                f"{self.directory}: {found}, expected the best checkpoint so far; restore it, or name another --out"
            )
