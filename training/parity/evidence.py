"""The data for measuring the heads of a checkpoint: named files, files of their run, or generated texts."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from models.classification import PairInput
from models.qa import QuestionInput
from models.task import HeadSpec, TaskName
from models.tokenizer import Tokenizer
from training.errors import ExportError
from training.evaluation.masked_passages import masked_passages
from training.parity.made_texts import made_texts
from training.parity.run_files import RunFiles
from training.run.atomic_files import hash_of
from training.run.json_lines import Line, json_lines
from training.run.text_lines import unpacked_suffix
from training.text.data_files import read_files
from training.text.examples import Document, Example, labels_in
from training.text.file_formats import FORMATS
from training.text.stratified_sample import SEED, stratified

Kind = Literal["validation", "training"]
Data = Mapping[str, Path | Sequence[Path]]

MIN_EXAMPLES = 100
"""Minimum labeled examples for judging a head: with fewer, one example is more than a point."""
SAMPLE = 1000
"""Maximum examples of a run's files, if no --data names them."""
TEXTS: dict[TaskName, int] = {"classify": 200, "pair": 200, "tag": 200, "qa": 100, "fill-mask": 50}
"""Maximum texts on which logits are compared; fewer for fill-mask, which has the most and the largest logits."""


def check_heads(data: Data, known: Collection[str]) -> None:
    """Raise ExportError for data of an unknown head."""
    for name in data:
        if name not in known:
            found = ", ".join(known)
            raise ExportError(f"there is no head {name!r}, expected one of {found}; correct --data HEAD=FILE")


@dataclass(frozen=True)
class Evidence:
    """Labeled examples of a head, a sample of some files."""

    kind: Kind
    files: tuple[Path, ...]
    examples: list[Example]
    total: int
    fitted: bool = False
    """Whether the temperature of the head was fitted on these files."""

    @classmethod
    def read(
        cls,
        kind: Kind,
        files: Sequence[Path],
        task: TaskName,
        limit: int | None,
        fitted: bool = False,
        reading: Mapping[str, Any] = MappingProxyType({}),
    ) -> "Evidence":
        """Read files and draw `limit` examples, in proportion to file, source and label or answerability.

        `reading`: `columns` and `skip_broken` of read_files, if they differ from the defaults.
        """
        examples: list[Example] = []
        strata: list[Hashable] = []
        read = read_files(files, task, **reading)
        for number, (path, found) in enumerate(read.items()):
            sources = _sources(path, len(found)) if limit and task not in ("tag", "fill-mask") else [None] * len(found)
            examples += found
            strata += [(number, source, _answer(one)) for source, one in zip(sources, found, strict=True)]
        places = range(len(examples)) if limit is None else stratified(strata, limit)
        return cls(kind, tuple(read), [examples[place] for place in places], len(examples), fitted)

    @property
    def name(self) -> str:
        return " + ".join(path.name for path in self.files)

    @property
    def is_enough(self) -> bool:
        return len(self.examples) >= MIN_EXAMPLES

    def describe(self) -> dict[str, Any]:
        """Return the entry of parity.json about the examples."""
        files = [{"file": path.name, "sha256": hash_of(path)} for path in self.files]
        drawn = "all" if len(self.examples) == self.total else f"stratified, seed {SEED}"
        return {"file": self.name, "files": files, "examples": len(self.examples), "of": self.total, "sample": drawn}


def collect(
    heads: Mapping[str, HeadSpec], data: Data, limit: int | None, run: RunFiles | None
) -> dict[str, list[Evidence]]:
    """Return the evidence of each head, the best first: named data or the run's validation files, then training files.

    Training files are used if there is no validation data, or too little.
    """
    return {name: _evidence(name, spec.task, data.get(name), limit, run) for name, spec in heads.items()}


def _evidence(
    name: str, task: TaskName, named: Path | Sequence[Path] | None, limit: int | None, run: RunFiles | None
) -> list[Evidence]:
    found = []
    if named:
        found.append(Evidence.read("validation", [named] if isinstance(named, Path) else named, task, limit))
    elif run and (files := run.files(name, task, "validation")):
        found.append(Evidence.read("validation", files, task, limit or SAMPLE, True, run.reading(name)))
    if run and not any(one.is_enough for one in found) and (files := run.files(name, task, "train")):
        found.append(Evidence.read("training", files, task, limit or SAMPLE, reading=run.reading(name)))
    return found


def made_inputs(task: TaskName, tokenizer: Tokenizer) -> list[Any]:
    """Return inputs of a task from generated texts."""
    texts = made_texts(tokenizer, TEXTS[task] + 1)
    pairs = zip(texts, texts[1:], strict=False)
    if task == "pair":
        return [PairInput(text=first, text_pair=second) for first, second in pairs]
    if task == "qa":
        return [QuestionInput(question=first, context=second) for first, second in pairs]
    if task == "fill-mask":
        return [passage.text for passage in masked_passages([Document(text) for text in texts], tokenizer)]
    return list(texts[1:])


def _sources(path: Path, count: int) -> list[Hashable]:
    """Return the `source` of each record; None for all if records and examples do not correspond."""
    if unpacked_suffix(path) not in (*FORMATS["json lines"], ".txt"):
        return [None] * count
    sources = [str(row.record.get("source")) for row in json_lines(path) if isinstance(row, Line)]
    return list(sources) if len(sources) == count else [None] * count


def _answer(example: Example) -> Hashable:
    """Return the label of an example (the first of several, none for a number), or whether it has an answer."""
    answers = getattr(example, "answers", None)
    return next(iter(labels_in(example)), None) if answers is None else bool(answers)
