"""A report of an evaluation as Markdown, for the model card; the pictures are files of the bundle."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from training.evaluation.report import PICTURES, REPORTS
from training.evaluation.report_figures import (
    SHOWN_PAIRS,
    Report,
    class_cells,
    lengths,
    slice_value,
    threshold_cells,
)
from training.evaluation.report_text import percent

FOLDED = 5
"""A table of more classes than this is folded."""
PICTURE_TEXTS = {
    "confusion.png": "expected classes against found classes",
    "reliability.png": "share of right answers by score",
    "residuals.png": "found numbers against expected numbers",
}


def report_lines(report: Report, directory: Path) -> Iterator[str]:
    """Yield the section of a head; `directory` is the bundle."""
    yield from (f"### {report.head} ({report.task})", "", _summary(report), "")
    yield from _classes(report)
    yield from _pairs(report)
    yield from _errors(report)
    yield from _thresholds(report)
    yield from _slices(report)
    for name in PICTURES:
        path = Path(REPORTS) / report.head / name
        if (directory / path).is_file():
            yield from (f"![{report.head}: {PICTURE_TEXTS[name]}]({path.as_posix()})", "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> Iterator[str]:
    """Yield a table and an empty line; the first `texts` columns hold text, the others figures."""
    yield row(header)
    yield "|" + "".join("---|" if place < texts else "---:|" for place in range(len(header)))
    yield from map(row, rows)
    yield ""


def row(cells: Sequence[str]) -> str:
    """Return a row of a table; a `|` in a cell is escaped."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"


def folded(summary: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield lines that stay hidden until a reader unfolds them."""
    yield from (f"<details><summary>{summary}</summary>", "", *lines, "</details>", "")


def _summary(report: Report) -> str:
    """Return the most important figure, chance, and the number of examples."""
    error = report.scores.get("calibration_error")
    gap = "" if error is None else f" Scores differ from the share of right answers by {percent(error)} points."
    return f"{report.chief or 'measured'} on {report.scores.get('examples', 0):,.0f} examples.{gap}"


def _classes(report: Report) -> Iterator[str]:
    limits = any(one.threshold is not None for one in report.classes)
    header = ["class", "precision", "recall", "F1", "support", *(["threshold"] if limits else [])]
    lines = table(header, [[one.label, *class_cells(one, limits)] for one in report.classes])
    if len(report.classes) > FOLDED:
        worst = min(report.classes, key=lambda one: one.f1)
        name = worst.label.replace("<", "&lt;")
        yield from folded(f"{len(report.classes)} classes; the worst is {name}, F1 {percent(worst.f1)}", lines)
    elif report.classes:
        yield from lines


def _pairs(report: Report) -> Iterator[str]:
    if shown := [[one.expected, one.found, f"{one.count:,}"] for one in report.pairs[:SHOWN_PAIRS]]:
        yield from table(["expected", "found instead", "count"], shown, 2)


def _errors(report: Report) -> Iterator[str]:
    if report.errors:
        yield from table(["spans", "count"], [[kind, f"{count:,}"] for kind, count in report.errors.items()])


def _thresholds(report: Report) -> Iterator[str]:
    spans = any(one.recall is not None for one in report.thresholds)
    header = ["`threshold`", "answers kept", *(["precision", "recall"] if spans else ["right"])]
    if report.thresholds:
        yield from table(header, [threshold_cells(one) for one in report.thresholds])


def _slices(report: Report) -> Iterator[str]:
    if report.slices:
        shown = [[lengths(one), f"{one.examples:,}", slice_value(report, one)] for one in report.slices]
        yield from table([report.length_unit, "examples", report.slice_figure], shown)
