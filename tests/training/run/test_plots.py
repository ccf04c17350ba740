"""If these fail, a run ends without its picture, or the picture leaves curves out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from training.errors import DataError
from training.run.plots import PANELS, Curve, Name, draw, plot_metrics, read_curves, smoothed


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return path


def height(path: Path) -> int:
    with Image.open(path) as image:
        image.verify()
        return image.size[1]


def figure_of(path: Path, *records: dict[str, Any]) -> Figure:
    """The figure of some lines of metrics.jsonl, with its ticks set."""
    curves = {Name.parse(key): curve for key, curve in read_curves(write(path / "m.jsonl", *records)).items()}
    figure = draw(curves, "a run")
    figure.draw_without_rendering()
    return figure


def panel(figure: Figure, title: str) -> Axes:
    return next(axis for axis in figure.axes if axis.get_title("left") == title)


def curve(axis: Axes, label: str) -> Line2D:
    return next(line for line in axis.lines if line.get_label() == label)


def test_every_kind_of_figure_gets_its_panel(tmp_path: Path) -> None:
    keys = ["loss/fill-mask", "loss/nsp", "loss/pretraining", "loss/nli", "validation/nli/accuracy"]
    keys += ["validation/ner/f1", "divergence/teacher", "state/teacher", "lr", "grad_norm", "tokens_per_s"]
    assert len(keys) == len(PANELS)
    points: Curve = np.array([1.0, 2.0]), np.array([0.1, 0.2])
    for count in (1, 3, len(keys)):
        figure = draw({Name.parse(key): points for key in keys[:count]}, "a run")
        assert [axis.get_title("left") for axis in figure.axes] == [panel.title for panel in PANELS[:count]]


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    metrics = write(tmp_path / "metrics.jsonl", {"step": 1, "note": "text", "lr": 0.1}, {"step": 2, "loss/nli": 3})
    plot_metrics(metrics, tmp_path / "curves.png")
    assert height(tmp_path / "curves.png") > 300


def test_masked_tokens_and_next_sentences_have_panels_of_their_own(tmp_path: Path) -> None:
    records = [{"step": step, "loss/fill-mask": 7 - step / 100, "loss/nsp": 0.7} for step in (20, 40)]
    figure = figure_of(tmp_path, *records)
    masked, following = (panel(figure, f"Loss of {what}") for what in ("masked tokens", "next sentences"))
    assert [line.get_label() for line in masked.lines] == ["fill-mask (training)"]
    assert [line.get_label() for line in following.lines] == ["nsp (training)"]


@pytest.mark.parametrize(("low", "high"), [(6.85, 7.15), (0.6931, 0.7003), (0.2, 1.8), (1e-6, 8.0), (3.0, 3.0)])
def test_log_axes_have_numbers_whatever_they_span(tmp_path: Path, low: float, high: float) -> None:
    axis = figure_of(tmp_path, {"step": 1, "loss/nli": high}, {"step": 2, "loss/nli": low}).axes[0]
    bottom, top = axis.get_ylim()
    numbers = [tick for tick in axis.get_yticks() if bottom <= tick <= top]
    labels = [tick.label1.get_text() for tick in axis.yaxis.get_major_ticks()]
    assert axis.get_yscale() == "log" and 2 <= len(numbers) <= 9
    assert all(labels) and len(set(labels)) == len(labels)


def test_every_axis_says_what_it_counts(tmp_path: Path) -> None:
    values = {"loss/nli": 1.0, "validation/nli/accuracy": 0.5, "lr": 1e-5, "grad_norm": 2.0, "tokens_per_s": 5000.0}
    figure = figure_of(tmp_path, *({"step": step, **values} for step in (20, 40)))
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "loss (log scale)", "accuracy (%)", "learning rate", "norm before clipping", "tokens per second",
    ]  # fmt: skip
    assert figure.axes[-1].get_xlabel() == "optimizer step" and figure.axes[-1].get_xlim()[0] == 0
    figure.draw_without_rendering()
    for axis in figure.axes:
        for ticks in (axis.xaxis.get_major_ticks(), axis.yaxis.get_major_ticks()):
            numbers = [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]
            assert len(numbers) >= 2, axis.get_ylabel()


def test_training_and_validation_differ_by_more_than_color(tmp_path: Path) -> None:
    records = [{"step": step, "loss/nli": 1.0, "validation/nli/loss": 1.1, "loss/ner": 2.0} for step in (20, 40)]
    axis = panel(figure_of(tmp_path, *records), "Loss of heads")
    trained, validated = (curve(axis, f"nli ({part})") for part in ("training", "validation"))
    assert trained.get_linestyle() == "-" and validated.get_linestyle() == "--"
    assert trained.get_color() is not None and np.array_equal(trained.get_color(), validated.get_color())
    assert trained.get_marker() == validated.get_marker() != curve(axis, "ner (training)").get_marker()


def test_legends_stand_beside_the_curves_and_fit_their_panel(tmp_path: Path) -> None:
    losses = {f"loss/head{number}": 1.0 + number for number in range(30)}
    figure = figure_of(tmp_path, *({"step": step, **losses, "validation/nli/f1": 0.5} for step in (1, 2)))
    for axis in figure.axes:
        legend, panel_box = axis.get_legend(), axis.get_window_extent()
        assert legend is not None
        box = legend.get_window_extent()
        assert box.x0 >= panel_box.x1 and box.y0 >= panel_box.y0 - 1


def test_a_curve_that_another_one_hides_is_left_out(tmp_path: Path) -> None:
    figures = {"validation/qa/f1": 0.5, "validation/qa/answerable_f1": 0.5, "validation/mixed/f1": 0.4}
    axis = figure_of(tmp_path, {"step": 1, **figures, "validation/mixed/answerable_f1": 0.3}).axes[0]
    assert [line.get_label() for line in axis.lines] == [
        "mixed (validation)", "mixed answerable f1 (validation)", "qa (validation)",
    ]  # fmt: skip


def test_a_resumed_run_has_one_line_without_a_gap(tmp_path: Path) -> None:
    before = [{"step": step, "loss/nli": 1.0} for step in (10, 20, 30)]
    after = [{"step": step, "loss/nli": 0.5} for step in (20, 30, 40)]
    axis = figure_of(tmp_path, *before, *after).axes[0]
    (line,) = axis.lines
    assert np.asarray(line.get_xydata()).tolist() == [[10, 1.0], [20, 0.5], [30, 0.5], [40, 0.5]]


def test_draws_long_noisy_curves_with_gaps_and_many_heads(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    records: list[dict[str, object]] = []
    for step in range(200):
        losses = {f"loss/head{number}": float(generator.random()) for number in range(12)}
        validation = {"validation/nli/accuracy": 0.5, "validation/nli/accuracy_chance": 0.33} if step % 50 == 0 else {}
        records.append({"step": step, "lr": 1e-5, **losses, **validation, "loss/gap": float("nan")})
    plot_metrics(write(tmp_path / "metrics.jsonl", *records), tmp_path / "curves.png")
    assert height(tmp_path / "curves.png") > 300


def test_a_step_written_again_after_a_resume_counts_once(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", {"step": 1, "lr": 3}, {"step": 2, "lr": 9}, {"step": 2, "lr": 2, "flag": True})
    steps, values = read_curves(path)["lr"]
    assert (steps.tolist(), values.tolist()) == ([1, 2], [3, 2])
    assert set(read_curves(path)) == {"lr"}


def test_names_say_head_figure_and_where_it_was_measured() -> None:
    loss, f1_panel = PANELS[0], next(panel for panel in PANELS if "f1" in panel.figures)
    assert Name.parse("loss/mlm") == Name("loss", "mlm", False)
    assert Name.parse("loss/mlm").label(loss) == "mlm (training)"
    assert Name.parse("validation/nli/macro_f1").label(f1_panel) == "nli macro f1 (validation)"
    assert Name.parse("lr") == Name("lr", "", False)


def test_smoothing_keeps_a_line_and_leaves_gaps_out() -> None:
    line = np.linspace(0, 1, 500)
    np.testing.assert_allclose(smoothed(line)[10:-10], line[10:-10], atol=1e-12)
    np.testing.assert_allclose(smoothed(np.array([1.0, np.nan, 3.0])), [1.0, 2.0, 3.0])
    assert np.isnan(smoothed(np.array([np.nan]))).all()


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no curve to draw"):
        plot_metrics(write(tmp_path / "metrics.jsonl", {"step": 1, "epoch": 0.5}), tmp_path / "curves.png")
    with pytest.raises(DataError, match=r'metrics\.jsonl:1: key "step" is missing'):
        plot_metrics(write(tmp_path / "metrics.jsonl", {"lr": 1}), tmp_path / "curves.png")
