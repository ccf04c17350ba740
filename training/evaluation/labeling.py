"""Label text with existing heads, to train others on it (self-training; means of several heads: Bucilă et al., 2006).

    python -m training label (BUNDLE... | CHECKPOINT... | URL) --head NAME --data FILE... --out LABELED.jsonl

The output is training data for `finetune`: {"text", "label"}, {"text_a", "text_b", "label"}, or {"tokens", "tags"} with
the words of the service. The label is a list if several may be true, and a number for a regression. An existing --out
is refused, because people may have labeled it.
"""

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from models.classification import PairInput
from models.task import HeadSpec
from training.errors import DataError, EvaluationError
from training.evaluation.evaluate import open_predictor
from training.evaluation.multi_label import least_scores
from training.evaluation.predictors import AnyPredictor
from training.run.atomic_files import new_file
from training.run.json_lines import Line, visible
from training.run.option_types import positive, probability
from training.run.progress import progress
from training.text.columns import Columns
from training.text.data_files import add_data_options
from training.text.documents import Documents, Reading, sentences
from training.text.file_formats import FORMATS, TEXT_KNOWN, files_in
from training.text.rows import rows_of
from training.text.source_files import Sources

AT_A_TIME = 10_000
"""Inputs in memory at once, with their answers."""


class Labeled(NamedTuple):
    """A record of training data, its labels, and their lowest score."""

    record: dict[str, Any]
    labels: list[str]
    sure: float


def label(predictor: AnyPredictor, head: str, inputs: Sequence[Any]) -> list[Labeled]:
    """Return every input with its labels, in order; raise EvaluationError for a task without labels."""
    spec = predictor.head(head)
    task = spec.task
    if task not in LABELERS:
        raise EvaluationError(f"head {head!r} is of {task}, expected one of {', '.join(LABELERS)}; name another head")
    parameters, labeled = _labeler(spec)
    if task == "tag" and spec.defaults.get("pieces", "first") != "first":
        parameters = parameters | {"pieces": "joint"}  # a head that learned every piece
    answers = {one.index: one.answer for one in predictor.predict(head, inputs, parameters)}
    return [labeled(given, answers[index]) for index, given in enumerate(inputs)]


def _labeler(spec: HeadSpec) -> tuple[dict[str, Any], Callable[[Any, Any], Labeled]]:
    """Return the parameters for asking a head, and the function that turns its answer into a record."""
    every = {"top_k": len(spec.labels) or None, "threshold": None}
    if spec.task not in ("classify", "pair"):
        return LABELERS[spec.task]
    if spec.problem_type == "regression":
        return every, _with_number
    if spec.usual_function == "sigmoid":
        return every | {"function_to_apply": "sigmoid"}, partial(_with_labels, spec)
    return every | {"top_k": 1}, _with_class


def _with_class(given: str | PairInput, answer: Any) -> Labeled:
    [best] = answer
    return Labeled(_texts(given) | {"label": best["label"]}, [best["label"]], best["score"])


def _with_labels(spec: HeadSpec, given: str | PairInput, answer: Any) -> Labeled:
    """Decide yes or no for each label; the least certain decision counts."""
    scores = {each["label"]: each["score"] for each in answer}
    least = least_scores(spec).tolist()
    labels = [label for label, limit in zip(spec.labels, least, strict=True) if scores[label] >= limit]
    return Labeled(_texts(given) | {"label": labels}, labels, min(max(p, 1 - p) for p in scores.values()))


def _with_number(given: str | PairInput, answer: Any) -> Labeled:
    """Use a number as the label; it has no probability, so it always counts as sure."""
    [one] = answer
    return Labeled(_texts(given) | {"label": one["score"]}, [one["label"]], 1.0)


def _texts(given: str | PairInput) -> dict[str, Any]:
    return {"text": given} if isinstance(given, str) else {"text_a": given.text, "text_b": given.text_pair}


def _labeled_words(_: str, answer: Any) -> Labeled:
    tags = [unit["entity"] for unit in answer]
    record = {"tokens": [unit["word"] for unit in answer], "tags": tags}
    return Labeled(record, tags, min((unit["score"] for unit in answer), default=0.0))


LABELERS: dict[str, tuple[dict[str, Any], Callable[[Any, Any], Labeled]]] = {
    "classify": ({}, _with_class),
    "pair": ({}, _with_class),
    "tag": ({"aggregation_strategy": "none", "ignore_labels": [], "pieces": "first"}, _labeled_words),
}
"""By task: the parameters for asking, and the function that makes a record; for classifiers see `_labeler`."""


def read_inputs(path: Path, task: str, language: str | None, found: Documents) -> Iterator[Any]:
    """Yield the inputs for a head of `task`; if a language is named, a text is split into sentences.

    `found` says how files are read, and counts what is left out.
    """
    if task == "pair":
        columns = Columns("pair", found.reading.columns, labeled=False)
        yield from found.broken.parsed(rows_of(path, columns, found.notes), _pair)
        return
    for document in found.of(path):
        if language is None:
            yield document.text
        else:
            yield from (one for one in sentences(document.text, language) if any(map(visible, one)))


def _pair(line: Line) -> PairInput:
    return PairInput(text=line.string("text_a"), text_pair=line.string("text_b"))


# ---- command ---------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `label_command` reads."""
    add = parser.add_argument
    add("sources", nargs="+", metavar="BUNDLE|CHECKPOINT|URL", help="model that labels; several are averaged")
    add("--head", required=True, metavar="NAME", help="head that labels")
    add("--data", required=True, nargs="+", action="extend", type=Path, metavar="FILE", help=DATA_HELP)
    add_data_options(parser)
    add("--out", type=json_lines_file, required=True, metavar="LABELED.jsonl", help="training data to write")
    add("--sentences", metavar="CODE", help="split texts into sentences, by language, such as en")
    sure = "keep inputs whose labels all have this score or more; default: 0.5"
    add("--sure", type=probability, default=0.5, metavar="SCORE", help=sure)
    add("--limit", type=positive, metavar="N", help="only the first N inputs of each file")


def json_lines_file(text: str) -> Path:
    """Parse a path of JSON lines: under another name, `head` would read the file in another format."""
    path = Path(text)
    if path.suffix.casefold() not in FORMATS["json lines"]:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .jsonl, the format that is written")
    return path


DATA_HELP = f"texts, as for corpus; rows of two texts for a pair head ({TEXT_KNOWN}); or folders of them"


def label_command(arguments: argparse.Namespace) -> None:
    """Label as the command line says, and print the count of each label."""
    files = [file for path in arguments.data for file in files_in(path, "fill-mask", below=True)]
    sources = Sources(files)
    with new_file(arguments.out) as file:
        predictor = open_predictor(arguments.sources)
        task = predictor.head(arguments.head).task
        if task == "pair" and arguments.sentences:
            remedy = "but pairs are not split; leave the option out"
            raise DataError(f"--sentences is {arguments.sentences}, {remedy}")
        reading = Reading(arguments.columns, skip_broken=arguments.skip_broken)
        found = Documents(files, reading)
        each = (islice(read_inputs(path, task, arguments.sentences, found), arguments.limit) for path in files)
        inputs = progress(chain.from_iterable(each), "inputs")
        asked, kept, given = 0, 0, Counter[str]()
        while some := list(islice(inputs, AT_A_TIME)):
            sure = [one for one in label(predictor, arguments.head, some) if one.sure >= arguments.sure]
            file.writelines(json.dumps(one.record, ensure_ascii=False) + "\n" for one in sure)
            given.update(name for one in sure for name in one.labels)
            asked, kept = asked + len(some), kept + len(sure)
        sources.check()
        found.tell()
        if not kept:
            raise DataError(
                f"none of {asked} inputs has labels of score {arguments.sure} or more; lower --sure, or pass more text"
            )
    Console().print(table("labels", given))
    command = ["head", str(arguments.out), "--task", task, "--out", f"{arguments.out.stem}-head"]
    sys.stdout.write(
        f"{arguments.out}: {kept:,} of {asked:,} inputs labeled; next: python -m training {shlex.join(command)}\n"
    )


def table(title: str, given: Counter[str]) -> Table:
    """Return how often each label was given."""
    shown = Table(title=title, title_justify="left")
    shown.add_column("label")
    shown.add_column("count", justify="right")
    for name, count in given.most_common():
        shown.add_row(name, f"{count:,}")
    return shown
