"""Training data of a head: rows of the encoder, targets of its logits, and the loss.

Rows come from the task code of models/, so a head is trained on exactly the rows that it gets in service.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.bio import continuations
from models.classification import PairInput
from models.errors import InputError
from models.qa import QuestionInput
from models.row import Row
from models.task import HeadSpec, TaskName
from models.task_registry import TASKS
from models.tokenizer import Tokenizer
from training.errors import DataError, RecipeError
from training.text.examples import Example, Label, PairExample, QuestionExample, SpannedText, TaggedExample, TextExample
from training.text.problem_types import as_problem

UNLIKELY = -1e4
"""Logit of a position that a row does not have: its probability is 0, and its logarithm is finite."""


class Target(NamedTuple):
    """A row, and the targets of its positions.

    classify, pair: one label; for a multi-label head 1 or 0 per label; for a regression the number.
    tag: one label per position. qa: the indices of start and end among the row's positions.
    """

    row: Row
    labels: list[Any]
    """Integers; a float for a regression."""
    cut: int = 0
    """Tokens that did not fit into the row."""


def targets(examples: Sequence[Example], spec: HeadSpec, tokenizer: Tokenizer, max_length: int) -> list[Target]:
    """Encode examples for a head; raise DataError for a label that the head lacks."""
    task: Any = TASKS[spec.task](tokenizer, spec, max_length)
    examples = as_problem(examples, spec.problem_type)
    numbers = {label: number for number, label in enumerate(spec.labels)}
    found: list[Target] = []
    for number, example in enumerate(examples, start=1):
        try:
            found += ENCODERS[spec.task](task, example, numbers)
        except KeyError as error:
            raise DataError(
                f"example {number} has the label {error}, expected one of {', '.join(spec.labels)}"
            ) from None
        except InputError as error:
            raise DataError(f"example {number} cannot be encoded: {error}; correct or remove it") from None
    return found


def text_targets(task: Any, example: TextExample, numbers: dict[str, int]) -> list[Target]:
    encoded = task.encode(example.text, one_row(task))
    return [Target(encoded.rows[0], expected(task.head, example.label, numbers), encoded.truncated)]


def expected(head: HeadSpec, label: Label, numbers: dict[str, int]) -> list[Any]:
    """Return the target of a classifier; raise KeyError for an unknown label."""
    if head.problem_type == "regression":
        return [float(label)]  # type: ignore[arg-type]
    if head.problem_type == "multi_label_classification":
        true = {numbers[each] for each in label}  # type: ignore[union-attr]
        return [int(number in true) for number in range(len(numbers))]
    return [numbers[str(label)]]


def one_row(task: Any) -> Any:
    """Return parameters that make an example one row: its label may not fit each window of its text."""
    parameters = task.parse_parameters({})
    return task.parse_parameters({"truncation": "right"}) if parameters.truncation == "windows" else parameters


def pair_targets(task: Any, example: PairExample, numbers: dict[str, int]) -> list[Target]:
    inputs = PairInput(text=example.text_a, text_pair=example.text_b)
    encoded = task.encode(inputs, one_row(task))
    return [Target(encoded.rows[0], expected(task.head, example.label, numbers), encoded.truncated)]


def tag_targets(task: Any, example: TaggedExample | SpannedText, numbers: dict[str, int]) -> list[Target]:
    """Return the rows of a text with the given tags of words; later pieces of a word get the continuing tag."""
    parameters = task.parse_parameters({})
    if isinstance(example, SpannedText):
        encoded = task.encode(example.text, parameters)
        tags = tags_of(encoded.source.spans, example.spans)
    else:
        encoded, tags = task.encode_words(example.tokens, parameters), example.tags
    go_on = continuations(task.head.labels)
    labels = [0] * sum(len(row.positions) for row in encoded.rows)
    firsts = encoded.source.firsts
    for tag, first, stop in zip(tags, firsts, [*firsts[1:], len(labels)], strict=True):
        labels[first] = numbers[tag]
        labels[first + 1 : stop] = [go_on[numbers[tag]]] * (stop - first - 1)
    each = iter(labels)
    return [Target(row, [next(each) for _ in row.positions]) for row in encoded.rows]


def tags_of(units: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int, str]]) -> list[str]:
    """Return the BIO tag of each unit: B- for the first that overlaps a span, I- for the others."""
    tags = ["O"] * len(units)
    starts, ends = [start for start, _ in units], [end for _, end in units]
    for start, end, name in spans:
        first, stop = bisect_right(ends, start), bisect_left(starts, end)
        tags[first:stop] = [f"{'I' if unit > first else 'B'}-{name}" for unit in range(first, stop)]
    return tags


def joined(found: Sequence[Target], max_length: int, rng: np.random.Generator) -> list[Target]:
    """Join rows in a random order to rows of random lengths up to `max_length` tokens.

    In service, a tagger reads documents, with several sentences in one row.
    """
    rows: list[Target] = []
    group: list[Target] = []
    room = 0
    for number in rng.permutation(len(found)).tolist():
        size = len(found[number].row.input_ids) - 2
        if group and size > room:
            rows.append(join(group))
            group = []
        if not group:
            room = int(rng.integers(max_length // 4, max_length + 1)) - 2
        group.append(found[number])
        room -= size
    return [*rows, join(group)] if group else rows


def join(group: Sequence[Target]) -> Target:
    """Return one row [CLS] a b … [SEP] from several rows [CLS] a [SEP], with their labels."""
    cls, sep = group[0].row.input_ids[0], group[0].row.input_ids[-1]
    ids: list[int] = [cls]
    positions: list[int] = []
    for target in group:
        positions += [len(ids) - 1 + position for position in target.row.positions]
        ids += target.row.input_ids[1:-1]
    row = Row([*ids, sep], [0] * (len(ids) + 1), positions)
    return Target(row, [label for target in group for label in target.labels])


def question_targets(task: Any, example: QuestionExample, numbers: dict[str, int]) -> list[Target]:
    answer = None
    if example.answers:
        answer = (example.starts[0], example.starts[0] + len(example.answers[0]))
    inputs = QuestionInput(question=example.question, context=example.context)
    parameters = task.parse_parameters({"max_seq_len": task.max_length})
    return [Target(row, [start, end]) for row, start, end in task.encode_training(inputs, answer, parameters)]


ENCODERS: dict[TaskName, Callable[[Any, Any, dict[str, int]], list[Target]]] = {
    "classify": text_targets,
    "pair": pair_targets,
    "tag": tag_targets,
    "qa": question_targets,
}


def batch_loss(
    spec: HeadSpec, logits: Tensor, batch: Sequence[Target], weight: float = 0.0, of_classes: Tensor | None = None
) -> Tensor:
    """Return the mean loss of logits [positions of all rows, C] on a batch: cross-entropy, or the squared error.

    `of_classes` [C] has the weights of exclusive classes (see `class_weights`). With a `weight`, the logits contain the
    batch twice, and the distance of the two passes is added (see `consistency`).
    """
    if spec.problem_type == "regression":
        value = F.mse_loss(logits, torch.tensor([target.labels for target in batch], device=logits.device))
        one, other = logits.chunk(2) if weight else (logits, logits)
        return value + weight * F.mse_loss(one, other)
    single = spec.problem_type == "single_label_classification"
    lines = log_probabilities(spec.task, logits, batch) if single else sides(logits)
    value = loss(lines, batch, of_classes if single else None)
    return value + weight * consistency(lines) if weight else value


def sides(logits: Tensor) -> Tensor:
    """Return the log probabilities [N·L, 2] of "no" and "yes" for independent labels with logits [N, L].

    The loss of these rows is the binary cross-entropy with logits.
    """
    return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], dim=-1).flatten(0, 1)


def log_probabilities(task: TaskName, logits: Tensor, batch: Sequence[Target]) -> Tensor:
    """Return a matrix [labels of the batch, choices] from logits [positions of all rows, C].

    A choice is a class, or for qa a position of the row; start and end are two labels.
    """
    if task != "qa":
        return logits.log_softmax(-1)
    rows = torch.split(logits, [len(target.row.positions) for target in batch])
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=UNLIKELY)  # (B, L, 2)
    return padded.transpose(1, 2).reshape(-1, padded.shape[1]).log_softmax(-1)


def loss(lines: Tensor, batch: Sequence[Target], of_classes: Tensor | None = None) -> Tensor:
    """Return the mean loss of the log probabilities of a batch; for qa (start + end) / 2 (run_squad.py:660)."""
    labels = torch.tensor([label for target in batch for label in target.labels], device=lines.device)
    return F.nll_loss(lines, labels, weight=of_classes)


def class_weights(spec: HeadSpec, found: Sequence[Target], power: float) -> Tensor | None:
    """Return the weights [C] of classes, (mean count / count) ** power; None for power 0.

    A class without examples weighs like a class with one. Raise RecipeError for a head without exclusive classes.
    """
    if not power:
        return None
    if spec.task == "qa" or spec.problem_type != "single_label_classification":
        kind = spec.task if spec.task == "qa" else spec.problem_type
        raise RecipeError(f"class_weights is {power} for {kind}, expected exclusive classes; set it to 0")
    counts = np.bincount([label for target in found for label in target.labels], minlength=len(spec.labels))
    return torch.from_numpy((counts.mean() / np.maximum(counts, 1)) ** power).float()


def consistency(lines: Tensor) -> Tensor:
    """Return the distance of two passes over the same rows, one in each half: the mean KL divergence, both ways.

    Between passes with different dropout this is the regularizer of R-Drop (arXiv 2106.14448, equation 2).
    """
    one, other = lines.chunk(2)
    return ((one.exp() - other.exp()) * (one - other)).sum(-1).mean() / 2
