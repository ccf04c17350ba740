"""Pictures of a report: which class is taken for which, whether scores mean what they say, errors of numbers.

Shades are of one colour, from light to dark, so that they are read in grey too.
"""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from training.evaluation.report_figures import NONE, Report
from training.evaluation.report_text import cut, percent

MAX_CLASSES = 20
"""In a picture; of more, those that are confused most."""
MAX_NAME = 28
"""Characters of a label in a picture."""
DPI = 110
BLUE, GREY = "#1f5a96", "#9a9a9a"

Counts = NDArray[np.int64]


def plot_report(report: Report, directory: Path) -> None:
    """Draw what the report has into PNG files of `directory`."""
    if report.classes:
        _save(_confusion(report), directory / "confusion.png")
    if report.bins:
        _save(_reliability(report), directory / "reliability.png")
    if report.numbers:
        _save(_residuals(report), directory / "residuals.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI)


# ---- confusion -------------------------------------------------------------------------------------------------------


def confusion_matrix(report: Report) -> tuple[list[str], Counts]:
    """Return labels, and counts of expected (rows) against found (columns); NONE comes last where it occurs."""
    names = [one.label for one in report.classes]
    if any(NONE in (one.expected, one.found) for one in report.confused):
        names.append(NONE)
    place = {name: number for number, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    for figures in report.classes:
        counts[place[figures.label], place[figures.label]] = figures.right
    for one in report.confused:
        if one.expected in place and one.found in place:
            counts[place[one.expected], place[one.found]] += one.count
    return names, counts


def most_confused(report: Report, most: int = MAX_CLASSES) -> list[str]:
    """Return the labels of the most confused pairs, pair by pair, until there are `most`."""
    chosen: list[str] = []
    for one in report.pairs:
        fresh = [name for name in (one.expected, one.found) if name not in chosen and name != NONE]
        if len(chosen) + len(fresh) > most:
            break
        chosen += fresh
    return chosen


def _confusion(report: Report) -> Figure:
    names, counts = confusion_matrix(report)
    support = counts.sum(axis=1)
    title = f"{report.head}: expected against found"
    if len(report.classes) > MAX_CLASSES:
        chosen = [names.index(name) for name in names if name in most_confused(report)]
        title += f"\nthe {len(chosen)} most confused of {len(names)} classes"
        names, counts, support = [names[n] for n in chosen], counts[np.ix_(chosen, chosen)], support[chosen]
    size = 1.9 + max(2.4, 0.42 * len(names))
    longest = max((len(cut(name, MAX_NAME)) for name in names), default=1)
    figure = Figure(figsize=(size + 0.075 * longest + 0.9, size + 0.05 * longest), layout="constrained")
    _draw_matrix(figure, figure.subplots(), names, counts / np.maximum(1, support)[:, None], counts)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_matrix(figure: Figure, axis: Axes, names: list[str], shares: NDArray[np.float64], counts: Counts) -> None:
    shown = [cut(name, MAX_NAME) for name in names]
    image = axis.imshow(shares, cmap=colormaps["Blues"], vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), shown, rotation=90 if len(names) > 6 else 0, fontsize=8)
    axis.set_yticks(range(len(names)), shown, fontsize=8)
    axis.set_xlabel("found")
    axis.set_ylabel("expected")
    axis.tick_params(length=0)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        size = 9 if len(names) <= 6 else 6.5
        axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=colour, fontsize=size)
    bar = figure.colorbar(image, ax=axis, format=PercentFormatter(xmax=1), fraction=0.04, pad=0.02)
    bar.set_label("of the expected class", fontsize=8)
    bar.ax.tick_params(labelsize=8)


# ---- reliability -----------------------------------------------------------------------------------------------------


def _reliability(report: Report) -> Figure:
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_bins(top, report)
    counts = [one.count for one in report.bins]
    lows, widths = [one.low for one in report.bins], [one.high - one.low for one in report.bins]
    bottom.bar(lows, counts, widths, align="edge", color=GREY, edgecolor="white", linewidth=0.8)
    bottom.set_ylabel("answers")
    bottom.set_xlabel("score")
    bottom.set_xlim(0, 1)
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
    error = report.scores.get("calibration_error")
    beside = "" if error is None else f" · calibration error {percent(error)} points"
    figure.suptitle(f"{report.head}: is a score what it says?{beside}", fontsize=11)
    return figure


def _draw_bins(axis: Axes, report: Report) -> None:
    scores, right = [one.score for one in report.bins], [one.right for one in report.bins]
    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1.2, label="a score that is the share")
    axis.plot(scores, right, color=BLUE, marker="o", markersize=5, linewidth=1.6, label="this head")
    errors = [1.96 * (one.right * (1 - one.right) / one.count) ** 0.5 for one in report.bins]
    axis.errorbar(scores, right, errors, fmt="none", ecolor=BLUE, alpha=0.5, linewidth=1, capsize=2)
    axis.set_ylabel("right")
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axis.legend(loc="upper left", fontsize=8, frameon=False)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _residuals(report: Report) -> Figure:
    gold, found = np.array(report.numbers).T
    low, high = min(gold.min(), found.min()), max(gold.max(), found.max())
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([low, high], [low, high], color=GREY, linestyle="--", linewidth=1.2)
    left.scatter(gold, found, s=10, color=BLUE, alpha=0.4, linewidths=0)
    left.set(xlabel="expected", ylabel="found", title="found against expected")
    right.axvline(0, color=GREY, linestyle="--", linewidth=1.2)
    right.hist(found - gold, bins=40, color=BLUE, edgecolor="white", linewidth=0.4)
    right.set(xlabel="found − expected", ylabel="examples", title="errors")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
    figure.suptitle(report.head, fontsize=11)
    return figure
