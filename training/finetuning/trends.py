"""Remarks at the end of a run: where it stopped and why, and whether more or fewer steps would help."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from training.finetuning.early_stopping import NONE, Best
from training.finetuning.finetune_recipe import FinetuneRecipe
from training.finetuning.task_mixture import choose

MIN_POINTS = 10
"""Minimum points of a curve for a remark on its end."""
MIN_FALL, MIN_LOSS = 0.1, 0.1
"""A loss still falls if its last fifth is lower than the fifth before by this share; below 0.1 nats it cannot."""
MIN_DROP = 0.02
"""A smaller drop of a validation figure is chance."""


def place(recipe: FinetuneRecipe, step: int) -> str:
    """Return the position of a run, in epochs or steps."""
    if not recipe.epochs:
        return f"step {step:,} of {recipe.steps:,}"
    return f"epoch {step * recipe.epochs / recipe.steps:.3g} of {recipe.epochs:g}"


def ending(recipe: FinetuneRecipe, best: Best, done: int) -> Iterator[str]:
    """Yield how a run ended: the steps of each head, the reason of an early stop, and the best step."""
    taken = Counter(choose(recipe, step) for step in range(done))
    steps = ", ".join(f"{count:,} of {name}" for name, count in taken.items())
    yield f"{done:,} of {recipe.steps:,} steps ({place(recipe, done)}): {steps}"
    if best.value == NONE or not recipe.patience:
        return
    where = f"the best was {best.value:.4f} at {place(recipe, best.step)}, and it is kept"
    if best.stale:
        yield f"stopped at {place(recipe, done)}: no gain in {recipe.patience} evaluations; {where}"
    elif best.step < done:
        yield where


def trends(metrics: Path, recipe: FinetuneRecipe) -> Iterator[str]:
    """Warn of a loss that still falls at the end, and of a validation figure that got worse."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf8").splitlines()] if metrics.exists() else []
    for name in recipe.heads:
        losses = [line[f"loss/{name}"] for line in lines if f"loss/{name}" in line]
        if fall := falls(losses):
            yield (
                f"heads.{name}: the training loss still fell at the end ({fall[0]:.3g} → {fall[1]:.3g}); "
                f"more {'epochs' if recipe.epochs else 'steps'} may give a better head"
            )
        for figure in ("f1", "accuracy"):
            key = f"validation/{name}/{figure}"
            values = [(line["step"], line[key]) for line in lines if key in line]
            if values:
                yield from worse(name, figure, values, recipe)
                break


def falls(losses: Sequence[float]) -> tuple[float, float] | None:
    """Return the means of the last two fifths of a curve that still falls at its end; otherwise None."""
    part = len(losses) // 5
    if len(losses) < MIN_POINTS:
        return None
    before, last = float(np.mean(losses[-2 * part : -part])), float(np.mean(losses[-part:]))
    return (before, last) if last > MIN_LOSS and last < (1 - MIN_FALL) * before else None


def worse(name: str, figure: str, values: Sequence[tuple[int, float]], recipe: FinetuneRecipe) -> Iterator[str]:
    """Warn if the evaluations, the last of which is of the finished head, fell from their best."""
    *way, (_, last) = values
    if len(way) < 2:
        return
    step, best = max(way, key=lambda one: one[1])
    lowest = way[-1][1] if recipe.patience else last
    if best - lowest > MIN_DROP and step < way[-1][0]:
        remedy = "the best is kept" if recipe.patience else "set patience to keep the best"
        yield (
            f"heads.{name}: validation {figure} fell from {best:.3f} at {place(recipe, step)} to {lowest:.3f}; "
            f"{remedy}; fewer epochs, a lower rate or more data may help"
        )
