"""Labelled examples as a head learns from them: rows of the encoder, targets of its logits, and the loss.

Rows come from the task code of models/, so that a head is trained on exactly what it is served.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.classification import PairInput
from models.errors import InputError
from models.qa import QuestionInput
from models.row import Row
from models.task import HeadSpec, TaskName
from models.tasks import TASKS
from models.tokenizer import Tokenizer
from training.data import Example, PairExample, QuestionExample, TaggedExample, TextExample
from training.errors import DataError

UNLIKELY = -1e4
"""Logit of a position that a row does not have: its probability is 0, and its logarithm still a number."""


class Target(NamedTuple):
    """A row, and what its positions should answer.

    classify, pair: one label · tag: a label a position · qa: the indices of start and end into the row's positions.
    """

    row: Row
    labels: list[int]
    cut: int = 0
    """Tokens that the row has no room for."""


def targets(examples: Sequence[Example], spec: HeadSpec, tokenizer: Tokenizer, max_length: int) -> list[Target]:
    """Encode examples for a head; raise DataError for a label that the head lacks."""
    task: Any = TASKS[spec.task](tokenizer, spec, max_length)
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
    encoded = task.encode(example.text, task.parse_parameters({}))
    return [Target(encoded.rows[0], [numbers[example.label]], encoded.truncated)]


def pair_targets(task: Any, example: PairExample, numbers: dict[str, int]) -> list[Target]:
    inputs = PairInput(text=example.text_a, text_pair=example.text_b)
    encoded = task.encode(inputs, task.parse_parameters({}))
    return [Target(encoded.rows[0], [numbers[example.label]], encoded.truncated)]


def tag_targets(task: Any, example: TaggedExample, numbers: dict[str, int]) -> list[Target]:
    encoded = task.encode_words(example.tokens, task.parse_parameters({}))
    labels = iter([numbers[tag] for tag in example.tags])
    return [Target(row, [next(labels) for _ in row.positions]) for row in encoded.rows]


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


def log_probabilities(task: TaskName, logits: Tensor, batch: Sequence[Target]) -> Tensor:
    """Lines [labels of the batch, choices] of logits [positions of all rows, C].

    A choice is a class, or for qa a position of the row, of whose two labels, start and end, each has a line.
    """
    if task != "qa":
        return logits.log_softmax(-1)
    rows = torch.split(logits, [len(target.row.positions) for target in batch])
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=UNLIKELY)  # (B, L, 2)
    return padded.transpose(1, 2).reshape(-1, padded.shape[1]).log_softmax(-1)


def loss(lines: Tensor, batch: Sequence[Target]) -> Tensor:
    """Mean loss of the log probabilities of a batch; of qa it is (start + end) / 2 (run_squad.py:660)."""
    labels = torch.tensor([label for target in batch for label in target.labels], device=lines.device)
    return F.nll_loss(lines, labels)


def consistency(lines: Tensor) -> Tensor:
    """Distance of two passes over the same rows, each a half of the lines: the mean KL divergence, both ways.

    Between passes with different dropout this is the regulariser of R-Drop (arXiv 2106.14448, equation 2).
    """
    one, other = lines.chunk(2)
    return ((one.exp() - other.exp()) * (one - other)).sum(-1).mean() / 2
