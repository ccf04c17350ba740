"""The content of a report, and its form on a terminal of 80 columns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.evaluation.metrics import Scores, headline
from training.evaluation.report_text import WIDTH, columns, cut, figure_text, percent

NONE = "(none)"
"""Stands for no label: a missed span, or a span found where none is."""
SHOWN_CLASSES = 15
SHOWN_PAIRS = 10
SHOWN_WRONG = 5


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """The figures of one class, label or type."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """How often the data has it."""
    found: int
    """How often the head found it."""
    right: int
    """How often both agree."""
    threshold: float | None = None
    """Multi-label: the threshold with the best F1 on this data; None if it has too few examples."""


@dataclass(frozen=True, slots=True)
class Confused:
    """How often one class was found instead of another; for spans, equal types mean other boundaries."""

    expected: str
    found: str
    count: int


@dataclass(frozen=True, slots=True)
class Bin:
    """The answers with a score from `low` to `high`."""

    low: float
    high: float
    count: int
    score: float
    """Their mean score."""
    right: float
    """The share of them that is right."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """The answers that remain if those with a lower score are dropped."""

    threshold: float
    kept: float
    """The share of the answers that remains."""
    precision: float | None
    """The share of these that is right; None if nothing remains."""
    recall: float | None = None
    """For spans: the share of the spans in the data that are found."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The figure of examples with some range of lengths."""

    shortest: int
    longest: int
    examples: int
    figure: float


@dataclass(frozen=True)
class Report:
    """The detailed results of a head on some data; `scores` come from training.evaluation.evaluate."""

    head: str
    task: str
    scores: Scores
    classes: list[ClassFigures] = field(default_factory=list)
    """In the order of the head's labels; for spans by type."""
    confused: list[Confused] = field(default_factory=list)
    """The most frequent first."""
    bins: list[Bin] = field(default_factory=list)
    """Reliability: empty bins are left out."""
    thresholds: list[Threshold] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    """Quarters of the examples, the shortest first."""
    slice_figure: str = "accuracy"
    length_unit: str = "tokens"
    """Unit of lengths: "words" between blanks if the tokenizer is not known."""
    errors: dict[str, int] = field(default_factory=dict)
    """For spans: the number of right ones, and of each kind of error."""
    wrong: list[dict[str, Any]] = field(default_factory=list)
    """The wrong answers, the most confident first: input, expected, found, score. Not in report.json."""
    numbers: list[tuple[float, float]] = field(default_factory=list)
    """For regression: expected and found. Not in report.json."""

    @property
    def pairs(self) -> list[Confused]:
        """The pairs of different classes that were confused."""
        return [one for one in self.confused if one.expected != one.found]

    def lines(self) -> list[str]:
        """Return the report as lines of at most 80 columns; if there are many classes, the worst ones."""
        parts = (self._head, self._classes, self._errors, self._pairs, self._thresholds, self._slices, self._wrong)
        found = [list(part()) for part in parts]
        return [line for part in found if part for line in ["", *part]][1:]

    @property
    def chief(self) -> str | None:
        """The most important figure with chance, as text; None if there is no figure."""
        if not self.scores:
            return None
        name = headline(self.scores)
        chance = self.scores.get(f"{name}_chance")
        beside = "" if chance is None else f" (chance {figure_text(name, chance)})"
        return f"{name.replace('_', ' ')} {figure_text(name, self.scores[name])}{beside}"

    def _head(self) -> Iterator[str]:
        yield cut(f"{self.head} ({self.task})" + (f": {self.chief}" if self.chief else ""), WIDTH)

    def _classes(self) -> Iterator[str]:
        worst = sorted(self.classes, key=lambda one: one.f1)[:SHOWN_CLASSES]
        shown = self.classes if len(self.classes) <= SHOWN_CLASSES else worst
        title = "class" if shown is self.classes else f"the {len(shown)} worst of {len(self.classes)} classes"
        limits = any(one.threshold is not None for one in shown)
        header = [title, "precision", "recall", "F1", "support", *(["threshold"] if limits else [])]
        if shown:
            yield from columns(header, [[one.label, *class_cells(one, limits)] for one in shown])

    def _errors(self) -> Iterator[str]:
        if self.errors:
            yield from columns(["spans", "count"], [[kind, f"{count:,}"] for kind, count in self.errors.items()])

    def _pairs(self) -> Iterator[str]:
        shown = [[one.expected, one.found, f"{one.count:,}"] for one in self.pairs[:SHOWN_PAIRS]]
        if shown:
            yield from columns(["expected", "found instead", "count"], shown, 2)

    def _thresholds(self) -> Iterator[str]:
        spans = any(one.recall is not None for one in self.thresholds)
        header = ["score at least", "answers kept", *(["precision", "recall"] if spans else ["right"])]
        if self.thresholds:
            yield from columns(header, [threshold_cells(one) for one in self.thresholds])

    def _slices(self) -> Iterator[str]:
        shown = [[lengths(one), f"{one.examples:,}", slice_value(self, one)] for one in self.slices]
        if shown:
            yield from columns([self.length_unit, "examples", self.slice_figure], shown)

    def _wrong(self) -> Iterator[str]:
        shown = [one for one in self.wrong if self.numbers or one["score"] is not None][:SHOWN_WRONG]
        if shown:
            yield "The largest errors" if self.numbers else "The most confident wrong answers"
        for one in shown:
            asked = str(one.get("question", one.get("text", "")))
            word = f" for {one['word']!r}" if "word" in one else ""
            found, expected = shown_of(one["found"]), shown_of(one["expected"])
            how = f"{one['error']:.4g} off:" if self.numbers else f"{one['score']:.2f} "
            yield cut(f"{how} {found}, expected {expected}{word}", WIDTH)
            yield cut(f"      {' '.join(asked.split())}", WIDTH)


def class_cells(one: ClassFigures, thresholds: bool) -> list[str]:
    """Return the figures of a class, without its label, as text."""
    limit = "" if one.threshold is None else f"{one.threshold:.2f}"
    figures = [percent(one.precision), percent(one.recall), percent(one.f1), f"{one.support:,}"]
    return [*figures, *([limit] if thresholds else [])]


def threshold_cells(one: Threshold) -> list[str]:
    """Return the figures of a threshold as text."""
    right = "" if one.precision is None else percent(one.precision)
    found = [] if one.recall is None else [percent(one.recall)]
    return [f"{one.threshold:g}", percent(one.kept), right, *found]


def lengths(one: Slice) -> str:
    """Return the lengths of a slice as text."""
    return f"{one.shortest:,}" if one.shortest == one.longest else f"{one.shortest:,} to {one.longest:,}"


def slice_value(report: Report, one: Slice) -> str:
    """Return the figure of a slice as text: errors are in the unit of the data, other figures are shares."""
    return f"{one.figure:.4g}" if "error" in report.slice_figure else percent(one.figure)


def shown_of(answer: Any) -> str:
    """Return an answer of any task as text."""
    if isinstance(answer, dict):
        return f"{answer['type']} {answer['word']!r}"
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        return " | ".join(dict.fromkeys(map(str, answer))) or NONE
    if isinstance(answer, float):
        return f"{answer:.4g}"
    return NONE if answer in (None, "") else str(answer)
