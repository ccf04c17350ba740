"""Learning curves of a run as one PNG: a panel for each kind of figure, all over the same steps.

The input is the run's metrics.jsonl: one object per line with "step" and any of the scalars that PANELS names, such as
`loss/nli`, `lr`, `validation/nli/accuracy`. Training curves are solid. Validation curves are dashed and show every
measurement. Chance on the same data (`*_chance`) is dotted. A head keeps its shade and its marker in all panels;
the shades also differ in grayscale.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter
from numpy.typing import NDArray

from training.errors import DataError
from training.run.json_lines import json_lines
from training.run.text_lines import checked

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values
Color = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis: one of `figures`, for subjects in `only` (all if it is empty) but not in `without`."""

    title: str
    axis: str
    figures: tuple[str, ...]
    percent: bool = False
    logarithmic: bool = False
    noisy: bool = True  # drawn faint, under its moving average
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def shows(self, name: "Name") -> bool:
        """Tell whether a curve belongs to this panel."""
        chosen = name.subject not in self.without and (not self.only or name.subject in self.only)
        return chosen and name.figure in self.figures


MASKED, NEXT, BOTH = "fill-mask", "nsp", "pretraining"
"""Subjects of losses: masked tokens, next sentences, and both of them among the heads of a finetuning run."""
PANELS = (
    Panel("Loss of masked tokens", "nats (log scale)", ("loss",), logarithmic=True, only=(MASKED,)),
    Panel("Loss of next sentences", "nats (log scale)", ("loss",), logarithmic=True, only=(NEXT,)),
    Panel("Loss of pretraining on the corpus", "nats (log scale)", ("loss",), logarithmic=True, only=(BOTH,)),
    Panel("Loss of heads", "loss (log scale)", ("loss",), logarithmic=True, without=(MASKED, NEXT, BOTH)),
    Panel("Accuracy", "accuracy (%)", ("accuracy", "accuracy_top5"), percent=True),
    Panel("F1 and exact match", "score (%)", ("f1", "macro_f1", "exact_match", "answerable_f1"), percent=True),
    Panel("Divergence from the teacher", "nats (log scale)", ("divergence",), logarithmic=True),
    Panel("Hidden states against the teacher's", "share of variance (log scale)", ("state",), logarithmic=True),
    Panel("Learning rate", "learning rate", ("lr",), noisy=False),
    Panel("Gradient norm", "norm before clipping", ("grad_norm",)),
    Panel("Throughput", "tokens per second", ("tokens_per_s",)),
)
MARKERS = "os^Dv<>Ph*"
"""Markers of curves, one for each head."""
FEW = 60
"""A curve of up to this many points shows each of them."""
SPARSE = 6
"""Number of markers on a training curve; they only identify its head."""
FILLS = ("full", "none", "left", "bottom")
"""Fill styles of markers, one for each figure of a panel."""
DARKEST, LIGHTEST = 0.0, 0.8
"""The used range of the color map, in which luminance only rises."""
TICKS = 5
"""Maximum number of intervals on a log axis that spans less than a decade."""
HEIGHT, LEGEND_LINE = 2.6, 0.19
"""Minimum height of a panel, and height of a line of its legend, in inches."""


@dataclass(frozen=True)
class Name:
    """The parts of a key: `loss/mlm` is the figure loss of mlm, `validation/nli/accuracy` the accuracy of nli."""

    figure: str
    subject: str
    validation: bool

    @classmethod
    def parse(cls, key: str) -> "Name":
        match key.split("/"):
            case ["validation", *subject, figure]:
                return cls(figure, "/".join(subject), True)
            case [figure, *subject]:
                return cls(figure, "/".join(subject), False)
        raise ValueError(key)  # split never returns an empty list

    def label(self, panel: Panel) -> str:
        figure = "" if self.figure == panel.figures[0] and self.subject else self.figure.replace("_", " ")
        where = "(validation)" if self.validation else "(training)"
        return " ".join(filter(None, (self.subject, figure, where)))


def plot_metrics(metrics_jsonl: Path, out: Path) -> None:
    """Draw the curves of `metrics_jsonl` into the PNG `out`; raise DataError when there is nothing to draw."""
    curves = {Name.parse(key): curve for key, curve in read_curves(metrics_jsonl).items()}
    if not any(panel.shows(name) for panel in PANELS for name in curves):
        raise DataError(
            f"{metrics_jsonl} has no curve to draw, expected keys such as loss/mlm; pass a run's metrics.jsonl"
        )
    draw(curves, f"{metrics_jsonl.parent.resolve().name}: {metrics_jsonl.name}").savefig(out)


def draw(curves: dict[Name, Curve], title: str) -> Figure:
    """Return a matplotlib figure of the curves, with a panel for each kind."""
    curves = {name: curve for name, curve in curves.items() if not _repeats(name, curves)}
    shown = {panel: [name for name in curves if panel.shows(name)] for panel in PANELS}
    panels = [panel for panel, names in shown.items() if names]
    heights = [max(HEIGHT, LEGEND_LINE * (len(shown[panel]) + 4)) for panel in panels]
    figure = Figure(figsize=(11, 0.6 + sum(heights)), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, curves)
    axes[-1].set_xlabel("optimizer step")
    axes[-1].set_xlim(left=0)
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.align_ylabels(axes)
    return figure


def _repeats(name: Name, curves: dict[Name, Curve]) -> bool:
    """Tell whether a curve would hide another: if every question has an answer, f1 equals answerable_f1."""
    whole = curves.get(replace(name, figure=name.figure.removeprefix("answerable_")))
    return whole is not None and whole is not curves[name] and np.array_equal(whole[1], curves[name][1])


def read_curves(metrics_jsonl: Path) -> dict[str, Curve]:
    """Read every scalar by key, ordered by step; if a step was written twice (a resumed run), the last value counts."""
    points: dict[str, dict[float, float]] = defaultdict(dict)
    for line in checked(json_lines(metrics_jsonl)):
        step = line.value("step")
        for key, value in line.record.items():
            if key != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                points[key][step] = value
    return {key: _curve(values) for key, values in points.items()}


def _curve(values: dict[float, float]) -> Curve:
    steps = sorted(values)
    return np.array(steps, dtype=np.float64), np.array([values[step] for step in steps], dtype=np.float64)


def _draw_panel(axis: Axes, panel: Panel, curves: dict[Name, Curve]) -> None:
    axis.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    axis.set_ylabel(panel.axis)
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.tick_params(labelbottom=True)  # a shared axis would have numbers on the last panel only
    axis.spines[["top", "right"]].set_visible(False)
    subjects = list(dict.fromkeys(name.subject for name in curves if name.subject))
    shades = colormaps["viridis"](np.linspace(DARKEST, LIGHTEST, max(2, len(subjects))))
    shown = sorted((name for name in curves if panel.shows(name)), key=lambda name: (name.subject, name.validation))
    chance = False
    for name in shown:
        place = subjects.index(name.subject) if name.subject else 0
        color = shades[place] if name.subject else "black"
        _draw_curve(axis, panel, name, curves[name], color, MARKERS[place % len(MARKERS)])
        if line := curves.get(replace(name, figure=f"{name.figure}_chance")):
            axis.axhline(line[1][-1], color=color, linestyle=":", linewidth=1.1)
            chance = True
    if chance:
        axis.plot([], [], color="gray", linestyle=":", linewidth=1.1, label="chance, in the shade of the head")
    _scale(axis, panel)
    if any(name.subject for name in shown):
        axis.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), fontsize=8, frameon=False, borderaxespad=0)


def _draw_curve(axis: Axes, panel: Panel, name: Name, curve: Curve, color: Color, marker: str) -> None:
    steps, values = curve
    style: dict[str, Any] = {"color": color, "label": name.label(panel), "marker": marker if name.subject else ""}
    if name.validation:
        fill = FILLS[panel.figures.index(name.figure) % len(FILLS)]
        style |= {"linestyle": (0, (4, 2)), "linewidth": 1.3, "markersize": 5, "fillstyle": fill}
        style |= {"markevery": max(1, len(steps) // FEW), "markerfacecoloralt": "white"}
    else:
        if panel.noisy and len(steps) > FEW:
            axis.plot(steps, values, color=color, alpha=0.2, linewidth=0.7)
            values = smoothed(values)
        style |= {"linewidth": 1.5, "markersize": 3.5, "markevery": max(1, len(steps) // SPARSE)}
    axis.plot(steps, values, **style)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over a centered window of a fiftieth of the curve, shorter at its ends; NaN is left out."""
    reach = max(len(values) // 100, 1)
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values)) - reach, 0)
    high = np.minimum(np.arange(len(values)) + reach + 1, len(values))
    number = counts[high] - counts[low]
    means: NDArray[np.float64] = np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)
    return means


def _scale(axis: Axes, panel: Panel) -> None:
    if panel.logarithmic:
        _scale_logarithmic(axis)
    elif panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    elif panel.figures == ("lr",):
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        axis.set_ylim(bottom=0)
    else:
        axis.yaxis.set_major_formatter(EngFormatter(sep="") if panel.figures == ("tokens_per_s",) else "{x:g}")
        axis.set_ylim(bottom=0)


def _scale_logarithmic(axis: Axes) -> None:
    """Label 1, 2 and 5 of each decade; over three decades only powers of ten, and within one decade even steps."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    if high < 10 * low:
        axis.yaxis.set_major_locator(MaxNLocator(TICKS, steps=[1, 2, 2.5, 5, 10]))
        axis.yaxis.set_minor_locator(NullLocator())
    else:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter("{x:g}")
