"""Would break: a run ends without its picture, or the picture leaves curves out."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.errors import DataError
from training.run.plots import PANELS, Name, plot_metrics, read_curves, smoothed


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return path


def height(path: Path) -> int:
    with Image.open(path) as image:
        image.verify()
        return image.size[1]


def test_every_kind_of_figure_gets_its_panel(tmp_path: Path) -> None:
    out, heights = tmp_path / "curves.png", []
    keys = ["loss/mlm", "validation/nli/accuracy", "validation/ner/f1", "lr", "grad_norm", "tokens_per_s"]
    keys.append("state/teacher")
    assert len(keys) == len(PANELS)
    for count in (1, 3, len(keys)):
        records: list[dict[str, object]] = [
            {"step": step, "note": "text", **dict.fromkeys(keys[:count], step / 100)} for step in (1, 2, 3)
        ]
        plot_metrics(write(tmp_path / "metrics.jsonl", *records), out)
        heights.append(height(out))
    assert heights == sorted(set(heights))


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
    loss, f1_panel = PANELS[0], PANELS[2]
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
