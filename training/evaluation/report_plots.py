"""Pictures of a report: confused classes, the reliability of scores, and the errors of numbers.

Shades go from light to dark in one color, so they can be read in grayscale too.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from training.evaluation.report_figures import NONE, Report
from training.evaluation.report_text import percent

MAX_CLASSES = 20
"""Maximum classes in a picture; if there are more, it shows those that are confused most."""
MAX_NAME = 28
"""Maximum characters of a label in a picture."""
MAX_COUNT = 10_000
"""Counts from here on are shown in thousands, because a cell has room for five characters."""
DPI = 110
CHARACTER = 0.075
"""Inches that a character of a label takes at most."""
OTHERS = "(others)"
BLUE, GRAY = "#1f5a96", "#9a9a9a"

Counts = NDArray[np.int64]


def plot_report(report: Report, directory: Path) -> None:
    """Draw the parts of a report into PNG files in `directory`."""
    if report.classes:
        _save(_confusion(report), directory / "confusion.png")
    if report.bins:
        _save(_reliability(report), directory / "reliability.png")
    if report.numbers:
        _save(_residuals(report), directory / "residuals.png")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=DPI, bbox_inches="tight")  # a matrix keeps its shape, and may need more than the canvas


# ---- confusion -------------------------------------------------------------------------------------------------------


def confusion_matrix(report: Report) -> tuple[list[str], Counts]:
    """Return the labels and the counts [expected, found] of their pairs; NONE comes last if it occurs."""
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
    """Return the labels of the most confused pairs, pair by pair, until there are `most`.

    Pairs are ranked by their count times their share of the expected class. By count alone, one very large class would
    fill the picture; by share alone, classes with a single example would.
    """
    support = {one.label: max(1, one.support) for one in report.classes}
    pairs = [one for one in report.pairs if NONE not in (one.expected, one.found)]
    chosen: list[str] = []
    for one in sorted(pairs, key=lambda one: -(one.count**2) / support[one.expected]):
        fresh = [name for name in (one.expected, one.found) if name not in chosen]
        if len(chosen) + len(fresh) <= most:
            chosen += fresh
    return chosen


def shown_of_many(report: Report) -> tuple[list[str], str]:
    """Return the classes of a picture that has no room for all, and how they were chosen."""
    chosen = most_confused(report)
    if chosen:
        return chosen, f"the {len(chosen)} most confused"
    frequent = sorted(report.classes, key=lambda one: -one.support)[:MAX_CLASSES]
    return [one.label for one in frequent], f"no confused classes; the {len(frequent)} most frequent"


def _confusion(report: Report) -> Figure:
    names, counts = confusion_matrix(report)
    title, found = f"{report.head}: expected against found", names
    shares = counts / np.maximum(1, counts.sum(axis=1))[:, None]
    if NONE in names:
        shares[-1] = 0  # nothing was expected here, so there is no class to take a share of
    if report.errors:
        title += "\noverlapping spans, regardless of their boundaries"
    if len(report.classes) > MAX_CLASSES:
        shown_classes, how = shown_of_many(report)
        chosen = [names.index(name) for name in shown_classes]  # confused pairs side by side
        title += f"\n{how} of {len(report.classes)} classes"
        counts, shares = _with_others(counts, chosen), _with_others(shares, chosen)
        names = [names[number] for number in chosen]
        found = [*names, OTHERS]
    shown = shown_names(report)
    if any(shown[name] != shortened(name) for name in shown):
        title += "\n“class 1” is the first in report.json"  # letters that the font lacks, or names that look alike
    rows, columns = ([shown.get(name, name) for name in each] for each in (names, found))
    figure = _canvas(len(rows), max(map(len, columns), default=1))
    _draw_matrix(figure, (rows, columns), shares, counts)
    figure.suptitle(title, fontsize=11)
    return figure


def shortened(name: str) -> str:
    """Return a label with its middle left out where it is too long: long labels often differ only at one end."""
    reach = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[: reach - 1]}…{name[-reach:]}"


def shown_names(report: Report) -> dict[str, str]:
    """Return how each class is written in a picture: its shortened name, or its number where that cannot be read."""
    names = [one.label for one in report.classes]
    short = Counter(map(shortened, names))
    readable = {name: is_drawable(name) and short[shortened(name)] == 1 for name in names}
    return {name: shortened(name) if readable[name] else f"class {place}" for place, name in enumerate(names, 1)}


def is_drawable(text: str) -> bool:
    """Tell whether the font of the pictures has all characters of a text; others become boxes."""
    font = get_font(findfont(FontProperties()))
    return all(font.get_char_index(ord(character)) for character in text)


def _with_others(table: NDArray[Any], chosen: list[int]) -> NDArray[Any]:
    """Keep the chosen rows and columns, and add a last column with the sum of the others."""
    kept = table[np.ix_(chosen, chosen)]
    others = table[chosen].sum(axis=1) - kept.sum(axis=1)
    return np.concatenate([kept, others[:, None]], axis=1)


def _canvas(classes: int, longest: int) -> Figure:
    size = 1.9 + classes * _cell(classes)
    return Figure(figsize=(size + CHARACTER * longest + 0.9, size + CHARACTER * longest), layout="constrained")


def _cell(classes: int) -> float:
    """Return the width of a cell in inches."""
    return max(0.36, 2.4 / classes)


def _draw_matrix(
    figure: Figure, names: tuple[list[str], list[str]], shares: NDArray[np.float64], counts: Counts
) -> None:
    axis = figure.subplots()
    image = axis.imshow(shares, cmap=colormaps["Blues"], vmin=0, vmax=1)
    rows, found = names
    longest = CHARACTER * max(map(len, found))
    axis.set_xticks(range(len(found)), found, rotation=90 if longest > _cell(len(rows)) else 0, fontsize=8)
    axis.set_yticks(range(len(rows)), rows, fontsize=8)
    axis.set_xticks(np.arange(len(found) - 1) + 0.5, minor=True)
    axis.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axis.grid(which="minor", color="#dddddd", linewidth=0.6)
    axis.tick_params(which="both", length=0)
    axis.set(xlabel="found", ylabel="expected")
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.55 else "black"
        size = 9 if len(rows) <= 6 else 7
        axis.text(column, row, _count(counts[row, column]), ha="center", va="center", color=color, fontsize=size)
    for place in range(len(rows) - (NONE in rows)):  # right answers, framed
        frame = (place - 0.5, place - 0.5)
        axis.add_patch(Rectangle(frame, 1, 1, fill=False, edgecolor="black", linewidth=1.2, zorder=3))
    bar = figure.colorbar(image, ax=axis, format=PercentFormatter(xmax=1), fraction=0.04, pad=0.02)
    bar.set_label("share of the expected class", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def _count(count: int) -> str:
    return f"{count:,}" if count < MAX_COUNT else f"{count / 1000:,.0f}k"


# ---- reliability -----------------------------------------------------------------------------------------------------


def _reliability(report: Report) -> Figure:
    figure = Figure(figsize=(5.2, 5.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _draw_bins(top, report)
    counts = [one.count for one in report.bins]
    lows, widths = [one.low for one in report.bins], [one.high - one.low for one in report.bins]
    bottom.bar(lows, counts, widths, align="edge", color=GRAY, edgecolor="white", linewidth=0.8)
    bottom.set_ylabel("answers")
    bottom.set_xlabel("score")
    bottom.set_xlim(0, 1)
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
    error = report.scores.get("calibration_error")
    beside = "" if error is None else f" · calibration error {percent(error)} points"
    figure.suptitle(f"{report.head}: reliability of scores{beside}", fontsize=11)
    return figure


def _draw_bins(axis: Axes, report: Report) -> None:
    scores, right = [one.score for one in report.bins], [one.right for one in report.bins]
    axis.plot([0, 1], [0, 1], color=GRAY, linestyle="--", linewidth=1.2, label="perfectly calibrated")
    axis.plot(scores, right, color=BLUE, marker="o", markersize=5, linewidth=1.6, label="this head")
    low, high = zip(*(interval(one.right, one.count) for one in report.bins), strict=True)
    axis.vlines(scores, low, high, color=BLUE, alpha=0.5, linewidth=1.2, label="95 % interval")
    axis.set_ylabel("right answers")
    axis.set_ylim(0, 1.02)
    axis.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    _legend_above(axis)


def _legend_above(axis: Axes) -> None:
    """Set the legend outside, where it covers no curve."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, fontsize=8, frameon=False, borderaxespad=0.2)


def interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of `count` answers (Wilson, 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z / (1 + z * z / count) * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5
    return middle - reach, middle + reach


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _residuals(report: Report) -> Figure:
    gold, found = np.array(report.numbers).T
    low, high = min(gold.min(), found.min()), max(gold.max(), found.max())
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([low, high], [low, high], color=GRAY, linestyle="--", linewidth=1.2, label="found = expected")
    left.scatter(gold, found, s=10, color=BLUE, alpha=0.4, linewidths=0, label="an example")
    left.set(xlabel="expected", ylabel="found")
    right.axvline(0, color=GRAY, linestyle="--", linewidth=1.2, label="no error")
    right.hist(found - gold, bins=40, color=BLUE, edgecolor="white", linewidth=0.4, label="errors")
    right.set(xlabel="error (found − expected)", ylabel="examples")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.set_axisbelow(True)
        _legend_above(axis)
    figure.suptitle(f"{report.head}: {len(gold):,} numbers", fontsize=11)
    return figure
