"""The examples of a head, as its run keeps them: RUN/data/train.jsonl and RUN/data/validation.jsonl.

Whatever format and columns the files have, and whatever is held out of them, a run and an export read these two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.task import TaskName
from training.errors import DataError
from training.run.atomic_files import write_whole
from training.text.examples import Example, QuestionExample, labels_in, read_examples

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
MIN_EXAMPLES = 4
"""Of training and validation together: fewer can neither teach nor measure."""


def read_data(
    files: Sequence[Path], task: TaskName, columns: Mapping[str, str] = {}, skip_broken: int = 0
) -> list[Example]:
    """Read JSON lines; other formats, columns and broken rows are not read here."""
    read: Any = read_examples  # overloaded for each literal; here the task is a value
    return [example for path in files for example in read(path, task)]


def hold_out(examples: Sequence[Example], share: float = 0.1, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Return training and held-out examples, of each label its share, drawn from `seed`."""
    by_label: dict[object, list[int]] = {}
    for place in np.random.default_rng(seed).permutation(len(examples)).tolist():
        by_label.setdefault(getattr(examples[place], "label", None), []).append(place)
    held = {place for places in by_label.values() for place in places[: round(share * len(places))]}
    training = [example for place, example in enumerate(examples) if place not in held]
    return training, [example for place, example in enumerate(examples) if place in held]


def divide(
    training: list[Example], validation: list[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Hold out a share of the training data where there is no validation data; raise DataError for too few examples."""
    if len(training) + len(validation) < MIN_EXAMPLES:
        raise DataError(
            f"the data has {len(training) + len(validation)} examples, expected {MIN_EXAMPLES} or more; add some"
        )
    if not validation and share:
        training, validation = hold_out(training, share, seed)
    known = {label for example in training for label in labels_in(example)}
    if len(known) == 1:
        raise DataError(f"the data has the label {min(known)} alone, expected two or more; add examples of another")
    for example in validation:
        for label in labels_in(example):
            if label not in known:
                raise DataError(
                    f"validation has the label {label!r}, which no training example has; add some, or remove it there"
                )
    return training, validation


def keep(examples: Sequence[Example], path: Path) -> None:
    """Write examples as JSON lines; raise DataError where the run began with others."""
    text = "".join(json.dumps(record(example), ensure_ascii=False) + "\n" for example in examples)
    if path.exists() and path.read_text(encoding="utf8") != text:
        raise DataError(f"{path} has other examples, with which this run began; name another --out, or remove the run")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def record(example: Example) -> dict[str, Any]:
    """The JSON object of an example, as read_examples reads it."""
    values = asdict(example)
    if isinstance(example, QuestionExample):
        values["answers"] = {"text": example.answers, "answer_start": values.pop("starts")}
    return values
