"""The workloads: calls of heads over HTTP, and the same inputs as rows for ONNX Runtime without a service.

short   51 texts of 8–80 tokens, 34 in the mean, to a classify head
mixed   the same texts joined to 8–400 tokens, the lengths spread evenly over their logarithm
qa      a question and a context of some 350 tokens, to a qa head
heads   the texts of `short`, each cut to suit one of the tasks in turn: all heads of the bundle at equal lengths
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from models.bundle import Bundle
from models.row import Row
from models.task import TaskName
from models.task_registry import TASKS, AnyTask
from tests.benchmarks.load import BenchmarkError, Call

TEXTS = Path(__file__).parent / "texts.jsonl"
MAX_LENGTH = 400  # tokens of `mixed`
CONTEXT = 350  # tokens of `qa`
WHOLE: dict[TaskName, dict[str, Any]] = {"classify": {"truncation": "right"}, "pair": {"truncation": "right"}}
"""Parameters by task: a text is one row, as in the services that we compare with, also where a head reads windows."""


class Question(NamedTuple):
    """One input of one head."""

    task: TaskName
    head: str
    inputs: Any
    rows: tuple[Row, ...]

    @property
    def call(self) -> Call:
        body = {"inputs": self.inputs, "parameters": WHOLE.get(self.task, {})}
        return f"/{self.task}/{self.head}", json.dumps(body).encode()

    @property
    def row(self) -> Row:
        """Its only row; raise BenchmarkError if there are several, of which the others would be ignored."""
        if len(self.rows) > 1:
            raise BenchmarkError(f"an input of /{self.task} has {len(self.rows)} rows, expected one; shorten it")
        return self.rows[0]

    @property
    def tokens(self) -> int:
        """Of all its rows."""
        return sum(len(row.input_ids) for row in self.rows)


class Workloads:
    """Makes each from a bundle and texts."""

    def __init__(self, bundle: Bundle, texts: Sequence[str]) -> None:
        self.bundle = bundle
        self.texts = list(texts)
        self._heads: dict[TaskName, tuple[str, AnyTask]] = {}
        for name, head in bundle.manifest.heads.items():
            task = TASKS[head.task](bundle.tokenizer, head.spec, bundle.manifest.encoder.max_length)
            self._heads.setdefault(head.task, (name, task))

    def make(self, name: str) -> list[Question]:
        """Return a workload; raise BenchmarkError if the bundle has no head for it."""
        return list({"short": self._short, "mixed": self._mixed, "qa": self._qa, "heads": self._every}[name]())

    def _short(self) -> Iterator[Question]:
        return (self._ask("classify", text) for text in self.texts)

    def _mixed(self) -> Iterator[Question]:
        draw = random.Random(0)
        for _ in self.texts:
            wanted = round(8 * (MAX_LENGTH / 8) ** draw.random())
            yield self._ask("classify", self._joined(draw, wanted))

    def _qa(self) -> Iterator[Question]:
        draw = random.Random(0)
        for text in self.texts:
            question = " ".join(text.split()[:8])
            yield self._ask("qa", {"question": question, "context": self._joined(draw, CONTEXT)})

    def _every(self) -> Iterator[Question]:
        tasks = [task for task in TASKS if task in self._heads]
        return (self._to_task(tasks[number % len(tasks)], text) for number, text in enumerate(self.texts))

    def every_task(self) -> dict[TaskName, list[Question]]:
        """Return the texts of `short` as questions to the first head of each task."""
        return {task: [self._to_task(task, text) for text in self.texts] for task in self._heads}

    def every_length(self, number: int) -> list[Question]:
        """Return questions to all heads in turn, of 3 to 500 tokens spread evenly over their logarithm."""
        draw = random.Random(0)
        longest = min(500, self.bundle.manifest.encoder.max_length - 8)
        asked: list[Question] = []
        while len(asked) < number:
            text = self._joined(draw, round(3 * (longest / 3) ** draw.random()))
            asked.append(self._to_task(list(self._heads)[len(asked) % len(self._heads)], text))
        return asked

    def _to_task(self, task: TaskName, text: str) -> Question:
        """Cut a text to suit a task, at nearly the same length."""
        words = text.split()
        half = len(words) // 2
        front, back = " ".join(words[:half]) or "what", " ".join(words[half:])
        inputs: dict[TaskName, Any] = {
            "classify": text,
            "pair": {"text": front, "text_pair": back},
            "fill-mask": " ".join([*words[:half], "[MASK]", *words[half + 1 :]]),
            "tag": text,
            "qa": {"question": front, "context": back},
        }
        return self._ask(task, inputs[task])

    def _joined(self, draw: random.Random, tokens: int) -> str:
        """Random texts one after the other, cut at a word near this many tokens."""
        words: list[str] = []
        while len(words) < tokens:
            words += draw.choice(self.texts).split()
        counts = [len(pieces) for pieces in self.bundle.tokenizer.encode_ids(words)]
        kept = 0
        while kept < len(words) and sum(counts[: kept + 1]) <= max(1, tokens - 2):
            kept += 1
        return " ".join(words[: max(1, kept)])

    def _ask(self, task: TaskName, inputs: Any) -> Question:
        if task not in self._heads:
            raise BenchmarkError(f"{self.bundle.directory} has no {task} head, expected one; pass another --bundle")
        name, kind = self._heads[task]
        parsed = inputs if isinstance(inputs, str) else kind.inputs.model_validate(inputs)
        parameters = kind.parse_parameters(WHOLE.get(task, {}))
        return Question(task, name, inputs, tuple(kind.encode(parsed, parameters).rows))


def variants(row: Row, count: int) -> list[Row]:
    """Return rows that take as long as `row`, but differ in their first token: equal ones would be computed once."""
    return [replace(row, input_ids=[number, *row.input_ids[1:]]) for number in range(count)]


def read_texts(path: Path) -> list[str]:
    """Read JSON lines with {"text"}; raise BenchmarkError for anything else."""
    try:
        texts = [str(json.loads(line)["text"]) for line in path.read_text(encoding="utf8").splitlines()]
        if not texts:
            raise ValueError("it is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f'{path} is not JSON lines with {{"text"}} ({error!r}); pass another --texts') from None
    return texts
