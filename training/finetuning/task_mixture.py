"""The mixture of tasks in a finetuning run: chooses the head of each step, and computes the loss of its next batch.

The choice depends only on (seed, step), and the order of examples only on (seed, epoch). So a resume can skip the
finished steps.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.batch import pad
from models.checkpoint import Checkpoint
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.finetuning.targets import Target, batch_loss, class_weights, joined, targets
from training.pretraining.batches import Rows, collate
from training.pretraining.losses import score, total
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.run.progress import tell
from training.text.corpus import Corpus
from training.text.examples import Example

MAX_EVALUATIONS = 10
"""Maximum evaluations of a run in epochs: a pass over few rows is faster than an evaluation."""
CHUNK = 50
"""Batches that are sorted by length together: little padding, but still a random order."""


def in_steps(recipe: FinetuneRecipe, encoded: Mapping[str, Sequence[Target]]) -> FinetuneRecipe:
    """Return a recipe in steps: an epoch has the batches of all heads, and shares follow the batches of each."""
    if not recipe.epochs:
        return recipe
    batches = {name: math.ceil(len(encoded[name]) / head.batch_size) for name, head in recipe.heads.items()}
    heads = {name: replace(head, share=float(batches[name])) for name, head in recipe.heads.items()}
    epoch = sum(batches.values())
    steps = max(1, round(recipe.epochs * epoch))
    return replace(recipe, heads=heads, steps=steps, evaluate_every=max(epoch, math.ceil(steps / MAX_EVALUATIONS)))


def choose(recipe: FinetuneRecipe, step: int) -> str:
    """Draw the head of a step in proportion to the shares; depends only on (seed, step)."""
    shares = {name: head.share for name, head in recipe.heads.items()}
    if recipe.corpus:
        shares["pretraining"] = recipe.corpus_share
    weights = np.array(list(shares.values()))
    index = np.random.default_rng([recipe.seed, step]).choice(len(weights), p=weights / weights.sum())
    return list(shares)[int(index)]


def dropouts(recipe: FinetuneRecipe, name: str) -> tuple[float, float]:
    """Return the dropouts of hidden vectors and of attention, in a step of this head."""
    if name == "pretraining":
        return recipe.corpus_dropout, recipe.corpus_dropout
    return recipe.dropout, recipe.attention_dropout


def encode_sets(
    recipe: FinetuneRecipe, checkpoint: Checkpoint, sets: dict[str, list[Example]]
) -> dict[str, list[Target]]:
    """Return the rows that each head learns from."""
    rows: dict[str, list[Target]] = {}
    for name, head in recipe.heads.items():
        encoded = targets(sets[name], checkpoint.heads[name].spec, checkpoint.tokenizer, head.max_length)
        if cut := [target.cut for target in encoded if target.cut]:
            tell(
                f"heads.{name}: {len(cut)} of {len(encoded)} training examples are longer than max_length "
                f"{head.max_length} and lose up to {max(cut)} tokens"
            )
        if head.task == "tag" and head.joined:
            encoded += joined(encoded, head.max_length, np.random.default_rng(recipe.seed))
        rows[name] = encoded
    return rows


def build_sources(
    recipe: FinetuneRecipe, checkpoint: Checkpoint, encoded: dict[str, list[Target]], step: int
) -> dict[str, Any]:
    """Return for each head a function that returns the loss of its next batch and its tokens.

    After a resume, the batches of the steps before `step` are skipped, so the order is the same.
    """
    drawn = [choose(recipe, before) for before in range(step)]
    sources: dict[str, Any] = {}
    for name, head in recipe.heads.items():
        batches = itertools.islice(stream(encoded[name], head, recipe.seed), drawn.count(name), None)
        of_classes = class_weights(checkpoint.heads[name].spec, encoded[name], head.class_weights)
        sources[name] = labeled_source(checkpoint, name, batches, head.consistency, of_classes)
    if recipe.corpus:
        pretraining = recipe.pretraining
        corpus = Corpus(Path(recipe.corpus))
        corpus.check_vocabulary(checkpoint.tokenizer)
        rows = Rows(corpus, checkpoint.tokenizer, pretraining, pretraining.max_length)
        steps = rows.steps(pretraining.batch_size, (recipe.corpus_rotate, 0))
        sources["pretraining"] = pretraining_source(
            checkpoint, itertools.islice(steps, drawn.count("pretraining"), None), pretraining
        )
    return sources


def stream(encoded: list[Target], head: HeadRecipe, seed: int) -> Iterator[list[Target]]:
    """Yield batches of similar lengths, epoch by epoch, in an order that depends on (seed, epoch)."""
    lengths = np.array([len(target.row.input_ids) for target in encoded])
    for epoch in itertools.count():
        for batch in epoch_batches(lengths, head.batch_size, np.random.default_rng([seed, epoch])):
            yield [encoded[i] for i in batch]


def epoch_batches(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Divide one epoch into batches: shuffle, sort by length within chunks, shuffle the batches."""
    order = rng.permutation(len(lengths))
    chunks = [order[i : i + CHUNK * size] for i in range(0, len(order), CHUNK * size)]
    ordered = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
    batches = [chunk[i : i + size] for chunk in ordered for i in range(0, len(chunk), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def labeled_source(
    checkpoint: Checkpoint, name: str, batches: Iterator[list[Target]], weight: float, of_classes: Tensor | None
) -> Any:
    head = checkpoint.heads[name]

    def source() -> tuple[Tensor, int]:
        batch = next(batches) * (2 if weight else 1)
        logits = head.module(run_encoder(checkpoint, batch)).float()
        value = batch_loss(head.spec, logits, batch, weight, of_classes)
        return value, sum(len(target.row.input_ids) for target in batch)

    return source


def run_encoder(checkpoint: Checkpoint, batch: Sequence[Target]) -> Tensor:
    """Return the vectors [positions of all rows, H]."""
    rows = [target.row for target in batch]
    device = next(checkpoint.encoder.parameters()).device
    inputs = pad([row.key for row in rows], checkpoint.tokenizer.pad_id).read_all(rows)
    vectors: Tensor = checkpoint.encoder(
        **{name: torch.from_numpy(values).to(device) for name, values in inputs.items()}
    )
    return vectors


def pretraining_source(checkpoint: Checkpoint, rows: Iterator[Any], recipe: PretrainRecipe) -> Any:
    heads = [checkpoint.heads[name].module for name in ("fill-mask", "nsp")]

    def source() -> tuple[Tensor, int]:
        chosen, _ = next(rows)
        batch = collate(chosen).to(next(checkpoint.encoder.parameters()).device)
        parts = score(checkpoint.encoder, heads, batch)
        return total(parts, len(batch.labels), len(chosen), recipe), int(batch.attention_mask.sum())

    return source
