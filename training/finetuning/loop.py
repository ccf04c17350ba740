"""The loop of finetuning: one batch of one head per step, with regular evaluations and checkpoints."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from models.checkpoint import Checkpoint
from training.finetuning.early_stopping import NONE, Best
from training.finetuning.finetune_recipe import FinetuneRecipe
from training.finetuning.task_mixture import choose, dropouts
from training.finetuning.trends import place
from training.pretraining.monitor import check_finite
from training.run.interruption import Interruption
from training.run.optimizer import schedule, set_rates
from training.run.precision import arithmetic
from training.run.progress import StepBar
from training.run.run_directory import Run, seed_step
from training.run.start_from import set_dropout

LOG_EVERY = 20
"""Steps per point of the curves; fewer in a short run."""
MIN_POINTS = 20


class Loop:
    """Runs the steps of a recipe that counts steps (task_mixture.in_steps)."""

    def __init__(
        self,
        recipe: FinetuneRecipe,
        run: Run,
        checkpoint: Checkpoint,
        optimizer: torch.optim.AdamW,
        sources: dict[str, Any],
        best: Best,
        evaluate: Callable[[], dict[str, dict[str, float]]],
    ) -> None:
        """`sources` returns loss and tokens of the next batch of each head, `evaluate` the current figures."""
        self.recipe, self.run, self.checkpoint, self.optimizer = recipe, run, checkpoint, optimizer
        self.sources, self.best, self.evaluate = sources, best, evaluate
        self.log_every = max(1, min(LOG_EVERY, recipe.steps // MIN_POINTS))
        self.weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        self.losses: dict[str, list[float]] = {}
        self.tokens, self.began, self.norm = 0, time.monotonic(), 0.0

    def go_on(self, done: int) -> int:
        """Run the steps after `done`, to the last or until early stopping; return the number of finished steps."""
        recipe, interruption = self.recipe, Interruption()
        self.taken = Counter(choose(recipe, step) for step in range(done))
        bar = StepBar(recipe.steps, done)
        for step in interruption.watch(range(done, recipe.steps)):
            self.learn(step)
            done = step + 1
            bar.update()
            if done % self.log_every == 0 or done == recipe.steps:
                bar.show(self.log(done))
            if done % recipe.evaluate_every == 0 and done < recipe.steps:
                self.look(done)
            if interruption.asked or (done % recipe.save_every == 0 and done < recipe.steps):
                self.save(done)
            if interruption.asked:
                interruption.end(done)
            if self.best.stale:
                break
        bar.close()
        return done

    def save(self, done: int) -> None:
        """Write a checkpoint."""
        self.run.save(done, self.checkpoint, self.optimizer, {"best": self.best.state()})
        self.began = time.monotonic()

    def learn(self, step: int) -> None:
        recipe, name = self.recipe, choose(self.recipe, step)
        seed_step(recipe.seed, step)
        set_dropout(self.checkpoint, *dropouts(recipe, name))
        with arithmetic(recipe.precision, next(self.checkpoint.encoder.parameters()).device.type):
            value, count = self.sources[name]()
        value.backward()
        self.norm = float(nn.utils.clip_grad_norm_(self.weights, recipe.clip))
        share = schedule(step, recipe.steps, round(recipe.warmup * recipe.steps))
        set_rates(self.optimizer, share * recipe.rate, share * recipe.head_rate)
        check_finite({f"loss/{name}": value.item(), "grad_norm": self.norm}, step)  # before the weights change
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.losses.setdefault(name, []).append(value.item())
        self.tokens += count
        self.taken[name] += 1

    def log(self, done: int) -> list[str]:
        """Write the means since the last call; return what the bar shows: the position and the best figure."""
        values = {f"loss/{name}": float(np.mean(losses)) for name, losses in self.losses.items()}
        rate = self.optimizer.param_groups[0]["lr"]
        speed = self.tokens / (time.monotonic() - self.began)
        self.run.log(done, values | {"grad_norm": self.norm, "lr": rate, "tokens_per_s": speed})
        heads = [f"{name} {self.taken[name]}: {np.mean(losses):.2g}" for name, losses in self.losses.items()]
        best = [f"best {self.best.value:.3f}"] if self.best.value > NONE else []
        self.losses, self.tokens, self.began = {}, 0, time.monotonic()
        return [place(self.recipe, done), *best, *heads]

    def look(self, done: int) -> None:
        """Measure the heads during the run."""
        figures = self.evaluate()
        self.run.log_figures(done, figures)
        self.best.offer(figures, self.checkpoint, done)
        self.began = time.monotonic()
