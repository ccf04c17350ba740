"""Checks that a bundle answers as transformers does: python -m training verify BUNDLE --against HF_DIRECTORY.

Both get the same texts: those of --data, or made-up ones of many kinds. Ours go through the task code and the session
of the service, in each precision of the bundle. Theirs go through the pipelines of transformers. transformers 5 has no
pipeline for question answering, so the spans of its model are scored as in its documentation. The tokens of each text
are compared too, because a wrong token explains a wrong answer.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.bundle import Bundle, read_bundle
from models.config import read_json
from models.onnx_runtime import Precision
from models.predictor import LocalPredictor, Predictor, known_head
from models.task import TaskName
from training.errors import EvaluationError
from training.exporting.transformers_answers import Choices, Theirs, inputs_of, open_theirs
from training.run.option_types import positive
from training.run.progress import progress
from training.text.data_files import add_data_options, read_data
from training.text.examples import Example

TOLERANCE = 1e-4
"""Maximum difference of scores in fp32; relative to the largest if scores are raw numbers above 1."""
DEFAULT_AGREEMENT = 0.9
"""Minimum share of equal answers, for int8 and fp16."""
NEAR = 0.05
"""Two scores of a head with one label agree in int8 if they differ by less, relative to scores above 1."""
DEFAULT_LIMIT = 1000
SHOWN = 40
"""Maximum characters of a text in the report."""
CLASSES: dict[str, tuple[TaskName, ...]] = {
    "ForSequenceClassification": ("classify", "pair"),
    "ForTokenClassification": ("tag",),
    "ForQuestionAnswering": ("qa",),
    "ForMaskedLM": ("fill-mask",),
    "ForPreTraining": ("fill-mask", "pair"),
    "ForNextSentencePrediction": ("pair",),
}
"""The suffix of a class of transformers, and the tasks that its heads may have here."""
PARAMETERS: dict[TaskName, dict[str, Any]] = {
    "classify": {},
    "pair": {},
    "tag": {"aggregation_strategy": "none", "ignore_labels": [], "pieces": "all"},
    "qa": {"align_to_words": False, "handle_impossible_answer": False, "top_k": 3},
    "fill-mask": {"top_k": 5},
}
"""Parameters that make both answer the same question."""


@dataclass
class Comparison:
    """The comparison of one precision of a head."""

    precision: Precision
    texts: int = 0
    equal_tokens: int = 0
    difference: float = 0.0
    """The largest difference between two scores of an answer."""
    limit: float = TOLERANCE
    answers: int = 0
    """Number of answers: one per text, for tag per token, for fill-mask per mask."""
    equal: int = 0
    other_tokens: str = ""
    """The first text whose tokens differ."""
    other_answer: str = ""
    """The first text whose best answers differ."""
    both: str = ""
    """These two answers, as text."""

    @property
    def agreement(self) -> float:
        """Share of equal best answers."""
        return self.equal / max(1, self.answers)

    def agrees(self, least: float) -> bool:
        """Tell whether the answers are equal in fp32, or often enough in other precisions."""
        if self.precision == "fp32":
            return self.equal == self.answers and self.difference <= self.limit
        return self.agreement >= least

    def add(self, text: str, ours: list[Choices], theirs: list[Choices]) -> None:
        """Count the answers to one text."""
        for number in range(max(len(ours), len(theirs))):
            mine, other = (found[number] if number < len(found) else {} for found in (ours, theirs))
            self._add_choice(text, mine, other)

    def _add_choice(self, text: str, mine: Choices, other: Choices) -> None:
        self.answers += 1
        largest = max([1.0, *map(abs, other.values())])
        self.limit = max(self.limit, TOLERANCE * largest)
        apart = max((abs(mine[key] - other[key]) for key in mine.keys() & other.keys()), default=0.0)
        self.difference = max(self.difference, apart)
        best, wanted = next(iter(mine), None), next(iter(other), None)
        tied = best in other and other[best] >= other[wanted] - TOLERANCE * largest
        near = len(other) > 1 or self.precision == "fp32" or apart <= NEAR * largest
        if (best == wanted or tied) and near:
            self.equal += 1
        elif not self.other_answer:
            self.other_answer, self.both = shown(text), f"{_named(mine)}; transformers: {_named(other)}"


def verify(
    bundle: Bundle, head: str, theirs: Theirs, examples: Sequence[Example], limit: int = DEFAULT_LIMIT
) -> list[Comparison]:
    """Compare the answers of a head with those of transformers, in each precision of the bundle."""
    task = bundle.manifest.heads[head].task
    inputs = inputs_of(task, bundle, theirs, examples)
    inputs = inputs[:: -(-len(inputs) // limit)]
    expected = [theirs.answer(one) for one in progress(inputs, "texts")]
    files = bundle.manifest.encoder.files
    return [
        _compare(Predictor(bundle, precision=precision), precision, head, theirs, inputs, expected)
        for precision in files
    ]


def _compare(
    ours: LocalPredictor,
    precision: Precision,
    head: str,
    theirs: Theirs,
    inputs: list[Any],
    expected: list[list[Choices]],
) -> Comparison:
    task = ours.head(head).task
    parameters = PARAMETERS[task] | ({"max_seq_len": theirs.length} if task in ("tag", "qa") else {})
    answers = {one.index: one.answer for one in ours.predict(head, inputs, parameters)}
    found = Comparison(precision, len(inputs))
    encoder, parsed = ours.task(head), ours.task(head).parse_parameters(parameters)
    for number, one in enumerate(inputs):
        rows = encoder.encode(one, parsed).rows
        if theirs.has_tokens(one, rows):
            found.equal_tokens += 1
        else:
            found.other_tokens = found.other_tokens or shown(theirs.text(one))
        found.add(theirs.text(one), theirs.choices(answers[number]), expected[number])
    return found


def heads_for(bundle: Bundle, directory: Path, head: str | None) -> list[str]:
    """Return the heads that may come from a directory; raise EvaluationError if that is ambiguous."""
    heads = bundle.manifest.heads
    if head:
        return [known_head(head, heads)]
    classes = read_json(directory / "config.json").get("architectures") or [""]
    tasks = next((tasks for end, tasks in CLASSES.items() if str(classes[0]).endswith(end)), None)
    found = [name for name, entry in heads.items() if not tasks or entry.task in tasks]
    by_task = {heads[name].task: name for name in found}
    if not found or (len(found) > 1 and (not tasks or "Pre" not in str(classes[0]) or len(by_task) < len(found))):
        raise EvaluationError(
            f"{directory} holds {classes[0] or 'a head without a named class'}, and {bundle.directory} has "
            f"{', '.join(f'{name} ({entry.task})' for name, entry in heads.items())}; name the one that "
            "came from it with --head NAME"
        )
    return found


# ---- command line --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `verify_command` reads."""
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="directory with bundle.json")
    add("--against", type=Path, required=True, metavar="HF_DIRECTORY", help="directory that transformers loads")
    told = "examples of the task, in any format; default: made-up texts of many kinds"
    add("--data", nargs="+", action="extend", default=[], type=Path, metavar="FILE", help=told)
    add_data_options(parser)
    add("--head", metavar="NAME", help="head to compare; default: the one that fits the directory")
    add("--limit", type=positive, default=DEFAULT_LIMIT, metavar="N", help=f"maximum texts; default: {DEFAULT_LIMIT}")
    add(
        "--agreement",
        type=float,
        default=DEFAULT_AGREEMENT,
        metavar="SHARE",
        help=f"share of equal answers that int8 and fp16 must reach; default: {DEFAULT_AGREEMENT}",
    )


def verify_command(arguments: argparse.Namespace) -> None:
    """Verify as the command line says; print a table, and raise EvaluationError if the answers differ."""
    bundle = read_bundle(arguments.bundle)
    failed = []
    for head in heads_for(bundle, arguments.against, arguments.head):
        entry = bundle.manifest.heads[head]
        theirs = open_theirs(arguments.against, entry.spec, bundle.manifest.encoder.max_length)
        examples = read_data(arguments.data, entry.task, arguments.columns, arguments.skip_broken)
        found = verify(bundle, head, theirs, examples, arguments.limit)
        source = ", ".join(path.name for path in arguments.data) or "made up"
        sys.stdout.write("".join(f"{line}\n" for line in lines(head, entry.task, source, found, arguments.agreement)))
        failed += [f"{head} in {one.precision}" for one in found if not one.agrees(arguments.agreement)]
        failed += [f"the tokens of {head}" for one in found[:1] if one.equal_tokens < one.texts]
    if failed:
        raise EvaluationError(
            f"{arguments.bundle} does not answer as transformers does on {arguments.against} ({', '.join(failed)}), "
            "expected equal answers in fp32 and enough of them in other precisions; import the directory again, with "
            "--precision fp32 where only int8 or fp16 differs"
        )
    sys.stdout.write(
        f"{arguments.bundle} answers as {arguments.against}; next: "
        f"bertheads-serve --bundle {shlex.quote(str(arguments.bundle))}\n"
    )


def lines(head: str, task: str, source: str, found: Sequence[Comparison], agreement: float) -> list[str]:
    """Return the report of a head, in lines of at most 80 characters."""
    first = found[0]
    made = [f"{head[:40]} ({task}): {first.texts} texts, {source[:24]}"]
    made += [f"equal tokens: {first.equal_tokens} of {first.texts}"]
    made += [f"  first text that differs: {first.other_tokens}"] if first.other_tokens else []
    made += [f"{'precision':<10}{'largest difference':>20}{'equal answers':>16}{'needed':>24}"]
    for one in found:
        needed = f"≤ {one.limit:.0e} and all" if one.precision == "fp32" else f"≥ {agreement:.1%}"
        made += [f"{one.precision:<10}{one.difference:>20.1e}{one.agreement:>16.1%}{needed:>24}"]
        if one.other_answer:
            made += [f"  first answer that differs: {one.other_answer}", f"    {one.both}"]
    return [line if len(line) <= 80 else line[:79] + "…" for line in made]


def shown(text: str) -> str:
    """Return the start of a text, in quotes."""
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 1] + "…")


def _named(choices: Choices) -> str:
    return next((f"{key} {score:.3f}" for key, score in choices.items()), "nothing")
