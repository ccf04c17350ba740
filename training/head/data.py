"""The examples of a head in its run: RUN/data/train.jsonl and RUN/data/validation.jsonl.

Training and export read these two files, for any format, columns and split of the original files.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from training.errors import DataError
from training.run.atomic_files import write_whole
from training.run.progress import count_of, tell
from training.text.data_files import input_key
from training.text.examples import Example, QuestionExample, TaggedExample, labels_in
from training.text.problem_types import as_problem, problem_of
from training.text.split import hold_out

TRAIN, VALIDATION = "train.jsonl", "validation.jsonl"
MIN_EXAMPLES = 4
"""Minimum examples of training and validation together: fewer can neither teach nor measure."""
MAX_LABELS, MAX_LABEL = 5, 30
"""Maximum labels that are printed, and their characters."""


def divide(
    training: list[Example], validation: list[Example], share: float, seed: int
) -> tuple[list[Example], list[Example]]:
    """Return both parts, with labels in one form; without validation data, a share of the training data is held out.

    Raise DataError for too few examples, for a single label, and for a label that only validation data has.
    """
    if len(training) + len(validation) < MIN_EXAMPLES:
        found = count_of(len(training) + len(validation), "example")
        whole = any(isinstance(one, TaggedExample) for one in training)
        remedy = "add some, with a blank line after each sentence" if whole else "add some"
        raise DataError(f"the data has {found}, expected {MIN_EXAMPLES} or more; {remedy}")
    problem = problem_of(training)
    training, validation = as_problem(training, problem), as_problem(validation, problem)
    if not validation and share:
        _check_repeated(training)
        training, validation = hold_out(training, share, seed)
    else:
        _tell_overlap(training, validation)
    if problem != "regression":
        _check_labels(training, validation)
    return training, validation


def _check_labels(training: Sequence[Example], validation: Sequence[Example]) -> None:
    known = {label for example in training for label in labels_in(example)}
    if len(known) == 1:
        raise DataError(f"the data has only the label {min(known)}, expected two or more; add examples of another")
    for label in (label for example in validation for label in labels_in(example)):
        if label not in known:
            raise DataError(
                f"validation has the label {label!r}, which no training example has; add some, or remove it there"
            )


def _tell_overlap(training: Sequence[Example], validation: Sequence[Example]) -> None:
    learned = set(map(input_key, training))
    seen = sum(input_key(example) in learned for example in validation)
    if seen:
        told = f"{seen:,} of {len(validation):,} validation examples are also in the training data"
        tell(f"{told}, so figures are better than on other texts")


def _check_repeated(examples: Sequence[Example]) -> None:
    """Raise DataError if most examples have their own class: the column probably has ids or texts."""
    classes = [label for one in examples if isinstance(label := getattr(one, "label", None), str)]
    count = Counter(classes)
    alone = sum(number == 1 for number in count.values())
    if alone > len(classes) / 2:
        raise DataError(
            f"{alone:,} of {len(classes):,} examples have a label that no other has (such as {min(count)[:40]!r}), "
            "expected labels that repeat; choose their column with --columns label=COLUMN, or pass --validation FILE"
        )


def labels_told(examples: Sequence[Example]) -> list[str]:
    """Return a sentence on the labels, which shows a wrong column or spelling; none for questions."""
    numbers = [label for one in examples if isinstance(label := getattr(one, "label", None), float)]
    if numbers:
        return [f"labels: numbers from {min(numbers):g} to {max(numbers):g}"]
    count = Counter(chain.from_iterable(map(labels_in, examples)))
    if not count:
        return []
    first = ", ".join(f"{label[:MAX_LABEL]} ({number:,})" for label, number in count.most_common(MAX_LABELS))
    alone = sum(number == 1 for number in count.values())
    rest = ", …" if len(count) > MAX_LABELS else ""
    return [f"{len(count):,} labels: {first}{rest}" + (f"; with only one example: {alone:,}" if alone else "")]


def keep(examples: Sequence[Example], path: Path) -> None:
    """Write examples as JSON lines; raise DataError if the run started with others."""
    text = "".join(json.dumps(record(example), ensure_ascii=False) + "\n" for example in examples)
    if path.exists() and path.read_text(encoding="utf8") != text:
        raise DataError(
            f"{path} differs from the data: the run started with other examples; name another --out, or remove the run"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)


def record(example: Example) -> dict[str, Any]:
    """Return the JSON object of an example, in the form of read_examples."""
    values = asdict(example)
    if isinstance(example, QuestionExample):
        values["answers"] = {"text": example.answers, "answer_start": values.pop("starts")}
    return values
