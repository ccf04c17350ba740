"""The detailed report of a head: by class, by score, by length, and its wrong answers.

report_of(predictor, name, examples) → Report       each example is predicted once
write_report(report, directory)                     report.json, wrong.jsonl, and the pictures

report.json       the content of the model card: classes, confused pairs, reliability, thresholds, slices
wrong.jsonl       the wrong answers, the most confident first; {"text" …, "expected", "found", "score"}
confusion.png     reliability.png     residuals.png (regression)
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from models.predictor import Prediction
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.errors import EvaluationError
from training.evaluation.answer_report import answer_parts, mask_parts
from training.evaluation.class_report import class_parts, label_parts, number_parts
from training.evaluation.evaluate import score
from training.evaluation.predictors import AnyPredictor
from training.evaluation.report_figures import Report
from training.evaluation.report_plots import plot_report
from training.evaluation.span_report import tag_parts
from training.run.atomic_files import write_whole
from training.text.examples import Example
from training.text.problem_types import as_problem, problem_for

REPORTS = "reports"
"""The directory of a run or a bundle with a report for each head."""
REPORT, WRONG = "report.json", "wrong.jsonl"
PICTURES = ("confusion.png", "reliability.png", "residuals.png")
_JSON = TypeAdapter(Report)


class Watched:
    """A predictor that records its answers, so figures and details need one run."""

    def __init__(self, predictor: AnyPredictor) -> None:
        self.answers: list[list[Any]] = []
        """The answers of each call, in the order of its inputs."""
        self._predictor = predictor

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._predictor.tokenizer

    def head(self, name: str) -> HeadSpec:
        return self._predictor.head(name)

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        answers = [None] * len(inputs)
        self.answers.append(answers)
        for one in self._predictor.predict(head, inputs, parameters):
            answers[one.index] = one.answer
            yield one


def report_of(predictor: AnyPredictor, name: str, examples: Sequence[Example], progress: bool = False) -> Report:
    """Return the report of a head on examples of its task.

    Raise DataError for data that does not fit the head, EvaluationError for a head that does not answer.
    """
    spec, watched = predictor.head(name), Watched(predictor)
    examples = as_problem(examples, problem_for(spec, examples))
    scores = score(watched, name, examples, progress)
    parts = _parts(examples, watched, spec)
    unit = "tokens" if predictor.tokenizer else "words"
    return Report(head=name, task=spec.task, scores=scores, length_unit=unit, **parts)


def _parts(examples: Sequence[Any], watched: Watched, spec: HeadSpec) -> dict[str, Any]:
    """Return the parts of a report besides the scores, by task and kind of labels."""
    answers, tokenizer = watched.answers, watched.tokenizer
    if spec.task == "tag":
        return tag_parts(examples, answers, spec, tokenizer)
    if spec.task == "qa":
        return answer_parts(examples, answers[0], tokenizer)
    if spec.task == "fill-mask":
        return mask_parts(examples, answers[0], tokenizer)
    label: Any = examples[0].label
    if isinstance(label, float):
        return number_parts(examples, answers[0], tokenizer)
    several = isinstance(label, tuple)
    return (label_parts if several else class_parts)(examples, answers[0], spec, tokenizer)


# ---- files -----------------------------------------------------------------------------------------------------------


def write_report(report: Report, directory: Path, wrong: bool = True) -> None:
    """Write a report into `directory`, created if needed, in place of an older one.

    `wrong = False` leaves out the wrong answers, because they contain texts of the data.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in (REPORT, WRONG, *PICTURES):
        (directory / name).unlink(missing_ok=True)
    values = _JSON.dump_python(report, mode="json", exclude={"wrong", "numbers"})
    write_whole(directory / REPORT, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    if wrong:
        lines = (json.dumps(one, ensure_ascii=False) + "\n" for one in report.wrong)
        write_whole(directory / WRONG, "".join(lines))
    plot_report(report, directory)


def copy_report(source: Path, directory: Path) -> None:
    """Copy a report with its pictures, if there is one, without the wrong answers, which contain texts."""
    if (source / REPORT).is_file():
        directory.mkdir(parents=True, exist_ok=True)
        for path in (source / name for name in (REPORT, *PICTURES)):
            if path.is_file():
                shutil.copyfile(path, directory / path.name)


def read_report(directory: Path) -> Report | None:
    """Read the output of `write_report`; None if there is nothing."""
    path = directory / REPORT
    if not path.is_file():
        return None
    try:
        return _JSON.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise EvaluationError(
            f"{path}: {place}: {first['msg']}, expected a report of evaluate; measure the head again"
        ) from None
