"""Losses and accuracies of the pretraining heads on the held-out part of a corpus."""

from dataclasses import replace
from pathlib import Path

import torch

from models.checkpoint import Checkpoint
from training.pretraining.batches import Rows, collate
from training.pretraining.losses import Losses, counted_by, score
from training.pretraining.monitor import describe
from training.pretraining.pretrain_recipe import SPECS, PretrainRecipe
from training.text.corpus import Corpus

EVALUATION_SEED = 1 << 20
"""Masks of held-out text are the same at every evaluation, and differ from those of every epoch."""


@torch.inference_mode()
def evaluate(checkpoint: Checkpoint, recipe: PretrainRecipe, max_length: int) -> dict[str, dict[str, float]]:
    """Return losses and accuracies on held-out rows of a phase's length, always with 15 % masked tokens."""
    corpus = Corpus(Path(recipe.corpus), "validation")
    if not corpus.has_rows(recipe.nsp):
        return {}
    modules = [checkpoint.encoder, *(checkpoint.heads[name].module for name in SPECS if name in checkpoint.heads)]
    for module in modules:
        module.eval()
    fixed = replace(recipe, mask_rate=0.15, whole_words=False, seed=EVALUATION_SEED, teacher=None)
    rows = Rows(corpus, checkpoint.tokenizer, fixed, max_length)
    count = min(rows.count(0), recipe.evaluate_pairs)
    sums, counts = torch.zeros(len(Losses._fields)), torch.zeros(len(Losses._fields))
    for i in range(0, count, 32):
        batch = collate([rows.row(0, k) for k in range(i, min(i + 32, count))])
        parts = score(modules[0], modules[1:], batch.to(next(modules[0].parameters()).device))
        sums += torch.stack([part.float().cpu() for part in parts])
        counts += counted_by(len(batch.labels), len(batch.following))
    for module in modules:
        module.train()
    return describe(sums / counts, fixed)
