"""Learning curves of a run as one PNG: a panel for each kind of figure, all over the same steps.

Input is the run's metrics.jsonl: an object a line with "step" and any of the scalars that PANELS names: `loss/mlm`,
`lr`, `validation/nli/accuracy`. Training is solid, validation dashed with markers, and chance on the same data dotted
(`*_chance`). A head keeps its shade and its marker in all panels; shades differ in grey too.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, PercentFormatter
from numpy.typing import NDArray

from training.errors import DataError
from training.run.json_lines import json_lines
from training.run.text_lines import checked

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # steps, values
Colour = str | tuple[float, float, float, float]


@dataclass(frozen=True)
class Panel:
    """Curves that share an axis: those that measure one of `figures`."""

    title: str
    axis: str
    figures: tuple[str, ...]
    percent: bool = False
    logarithmic: bool = False
    noisy: bool = True  # drawn faint, with an average over it


PANELS = (
    Panel("Loss", "loss (log scale)", ("loss",), logarithmic=True),
    Panel("Accuracy", "accuracy (%)", ("accuracy", "accuracy_top5"), percent=True),
    Panel("F1 and exact match", "score (%)", ("f1", "macro_f1", "exact_match", "answerable_f1"), percent=True),
    Panel("Distance to the teacher", "nats, share of variance (log scale)", ("divergence", "state"), logarithmic=True),
    Panel("Learning rate", "learning rate", ("lr",), noisy=False),
    Panel("Gradient norm", "norm before clipping", ("grad_norm",)),
    Panel("Throughput", "tokens / s", ("tokens_per_s",)),
)
MARKERS = "os^Dv<>Ph*"
"""One for each head."""
FEW = 60
"""Points of a curve up to which each is shown by itself."""
FILLS = ("full", "none", "left", "bottom")
"""One for each figure of a panel."""
DARKEST, LIGHTEST = 0.0, 0.8
"""Of the colour map, whose luminance only rises."""


@dataclass(frozen=True)
class Name:
    """What a key says: `loss/mlm` is the figure loss of mlm, `validation/nli/accuracy` the accuracy of nli."""

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
    panels = [panel for panel in PANELS if any(name.figure in panel.figures for name in curves)]
    if not panels:
        raise DataError(
            f"{metrics_jsonl} has no curve to draw, expected keys such as loss/mlm; pass a run's metrics.jsonl"
        )
    figure = Figure(figsize=(11, 0.6 + 2.6 * len(panels)), layout="constrained", dpi=110)
    figure.suptitle(f"{metrics_jsonl.parent.resolve().name}: {metrics_jsonl.name}", fontsize=12)
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, curves)
    axes[-1].set_xlabel("optimizer step")
    axes[-1].xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.align_ylabels(axes)
    figure.savefig(out)


def read_curves(metrics_jsonl: Path) -> dict[str, Curve]:
    """Read every scalar by key, ordered by step; a step written twice (a resumed run) counts as written last."""
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
    axis.spines[["top", "right"]].set_visible(False)
    subjects = list(dict.fromkeys(name.subject for name in curves if name.subject))
    shades = colormaps["viridis"](np.linspace(DARKEST, LIGHTEST, max(2, len(subjects))))
    chance = False
    for name in [name for name in curves if name.figure in panel.figures]:
        place = subjects.index(name.subject) if name.subject else 0
        colour = shades[place] if name.subject else "black"
        _draw_curve(axis, panel, name, curves[name], colour, MARKERS[place % len(MARKERS)])
        if line := curves.get(Name(f"{name.figure}_chance", name.subject, name.validation)):
            axis.axhline(line[1][-1], color=colour, linestyle=":", linewidth=1.1)
            chance = True
    if chance:
        axis.plot([], [], color="grey", linestyle=":", linewidth=1.1, label="chance, in the same shade")
    _scale(axis, panel)
    if any(name.subject for name in curves if name.figure in panel.figures):
        axis.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), fontsize=8, frameon=False, borderaxespad=0)


def _draw_curve(axis: Axes, panel: Panel, name: Name, curve: Curve, colour: Colour, marker: str) -> None:
    steps, values = curve
    if name.validation:
        style: dict[str, Any] = {
            "color": colour,
            "linestyle": (0, (4, 2)),
            "linewidth": 1.3,
            "marker": marker,
            "markersize": 4.5,
            "markevery": max(1, len(steps) // FEW),
            "fillstyle": FILLS[panel.figures.index(name.figure) % len(FILLS)],
            "markerfacecoloralt": "white",
        }
        axis.plot(steps, values, label=name.label(panel), **style)
        return
    if panel.noisy and len(steps) > FEW:
        axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7)
        values = smoothed(values)
    alone = marker if len(steps) == 1 else ""
    axis.plot(steps, values, color=colour, linewidth=1.5, marker=alone, label=name.label(panel))


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average over a centred window of a fiftieth of the curve, shorter at its ends; gaps (NaN) stay out."""
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
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    elif panel.percent:
        axis.yaxis.set_major_formatter(PercentFormatter(xmax=1, symbol=""))
    elif panel.figures == ("lr",):
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        axis.set_ylim(bottom=0)
    else:
        axis.yaxis.set_major_formatter(EngFormatter(sep="") if panel.figures == ("tokens_per_s",) else "{x:g}")
        axis.set_ylim(bottom=0)
