"""Means of the steps between two lines of metrics.jsonl, and checks that the run makes progress."""

import math
import time
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from models.config import EncoderConfig
from training.errors import TrainingError
from training.pretraining.batches import MaskedPair
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.flops import matmul_peak, training_flops
from training.text.corpus import Corpus

BETTER = 0.05
"""Nats by which a loss must be below that of token frequencies, to count as progress."""


class Monitor:
    """Means of the steps between two lines of metrics.jsonl; their time excludes evaluating and saving."""

    def __init__(self, recipe: PretrainRecipe, config: EncoderConfig, unigram: float, device: torch.device) -> None:
        self.recipe = recipe
        self.config = config
        self.unigram = unigram
        """Loss in nats if the prediction is always the token frequencies of the corpus."""
        self.device = device
        self.empty()

    @cached_property
    def peak(self) -> float:
        return matmul_peak(self.recipe.precision, self.device)

    def empty(self) -> None:
        self.losses: list[Tensor] = []
        self.tokens = 0
        self.flops = 0.0
        self.waited = self.seconds = 0.0
        self.began = time.monotonic()

    def open(self) -> None:
        """Note the start of a step."""
        self.began = time.monotonic()

    def rows_came(self) -> None:
        self.waited += time.monotonic() - self.began

    def add(self, losses: Tensor, rows: list[MaskedPair]) -> None:
        """Count a finished step; `rows` are those of this process."""
        lengths = torch.tensor([len(row.masked.ids) for row in rows])
        self.losses.append(losses)
        self.tokens += int(lengths.sum())
        self.flops += training_flops(self.config, lengths, sum(len(row.masked.labels) for row in rows))
        self.seconds += time.monotonic() - self.began

    def close(self) -> dict[str, float]:
        """Return the figures, and start the next means."""
        figures = describe(torch.stack(self.losses).mean(0), self.recipe)
        values = {f"{key}/{head}": value for head, entry in figures.items() for key, value in entry.items()} | {
            "tokens_per_s": self.tokens / self.seconds,
            "peak_share": self.flops / self.seconds / self.peak,
            "data_share": self.waited / self.seconds,
        }
        self.empty()
        return values

    def check(self, values: dict[str, float], step: int) -> None:
        """Raise TrainingError for a run that makes no progress."""
        check_finite(values, step)
        loss = values["loss/fill-mask"]
        if step >= self.recipe.plateau_after and loss > self.unigram - BETTER:
            raise TrainingError(
                f"loss/fill-mask is {loss:.2f} at step {step}, no better than the frequencies of tokens "
                f"({self.unigram:.2f}); lower rate or raise warmup and start again, or raise plateau_after and resume"
            )


def unigram_entropy(corpus: Corpus, vocab_size: int) -> float:
    shares = corpus.token_counts(vocab_size) / len(corpus.tokens)
    return float(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())


def describe(means: Tensor, recipe: PretrainRecipe) -> dict[str, dict[str, float]]:
    """Name the means of losses.Losses that the recipe uses, by head or teacher."""
    masked, following, masked_right, following_right, divergence, state = means.tolist()
    figures = {"fill-mask": {"loss": masked, "accuracy": masked_right}}
    if recipe.teacher:
        figures["teacher"] = {"state": state} | ({"divergence": divergence} if recipe.teacher_share else {})
    return figures | ({"nsp": {"loss": following, "accuracy": following_right}} if recipe.nsp else {})


def check_finite(values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} at step {step}, expected a number; lower rate or raise warmup, and start again"
            )
