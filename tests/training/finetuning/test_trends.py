"""If these fail, a run gives no advice when its curves call for it, or warns without a reason."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from training.finetuning.early_stopping import Best
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.finetuning.trends import ending, falls, place, trends

RECIPE = FinetuneRecipe("base", {"mine": HeadRecipe("classify", ["a"], ["b"])}, steps=200, epochs=20.0, patience=3)


def test_a_loss_that_still_falls_is_told_from_one_that_is_down() -> None:
    assert falls([3 - 0.1 * step for step in range(20)]) == pytest.approx((1.65, 1.25))
    assert falls([1.0] * 20) is None and falls([3.0, 2.0, 1.0]) is None
    assert falls([0.1 / step for step in range(1, 21)]) is None, "a loss near 0 has no way to go"


def test_a_figure_that_sank_is_told(tmp_path: Path) -> None:
    def told(values: list[float], recipe: FinetuneRecipe = RECIPE) -> list[str]:
        lines = [{"step": 10 * number, "validation/mine/accuracy": value} for number, value in enumerate(values, 1)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return list(trends(tmp_path / "metrics.jsonl", recipe))

    (warning,) = told([0.7, 0.9, 0.8, 0.75, 0.9])
    assert "validation accuracy fell from 0.900 at epoch 2 of 20 to 0.750; the best is kept" in warning
    assert told([0.7, 0.8, 0.9, 0.89, 0.9]) == told([0.7, 0.9]) == []
    assert "set patience to keep the best" in told([0.7, 0.9, 0.8, 0.75], replace(RECIPE, patience=0))[0]
    assert list(trends(tmp_path / "none.jsonl", RECIPE)) == []


def test_the_end_of_a_run_is_told(tmp_path: Path) -> None:
    best = Best(tmp_path / "best", 3)
    best.value, best.since, best.step = 0.913, 3, 40
    steps, stopped = ending(RECIPE, best, 70)
    assert steps == "70 of 200 steps (epoch 7 of 20): 70 of mine"
    assert stopped == (
        "stopped at epoch 7 of 20: no gain in 3 evaluations; the best was 0.9130 at epoch 4 of 20, and it is kept"
    )
    assert place(replace(RECIPE, epochs=0.0), 70) == "step 70 of 200"
