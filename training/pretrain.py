"""Pretraining with masked tokens and next sentences (Devlin et al., 2018), from random weights or from an encoder.

    python -m training pretrain training/recipes/continue.toml --out RUN --set corpus=CORPUS --set base=DIR

The same command again resumes. Pairs and masks depend on (seed, epoch, index) alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.checkpoint import NSP_LABELS, Checkpoint, Head, read_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import MaskedTokenHead, build_head
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.base import read_base
from training.corpus import Corpus
from training.errors import RecipeError, TrainingError
from training.masking import Masked, Vocabulary, mask_tokens
from training.optimizer import build_optimizer, schedule, set_rate
from training.pairs import Ranges, sample_pairs, truncate_pair
from training.precision import Precision, arithmetic
from training.run import Run

EVALUATION_SEED = 1 << 20
"""Masks of the held-out text are the same at every evaluation, and unlike those of any epoch."""


@dataclass(frozen=True)
class PretrainRecipe:
    """What a pretraining run is."""

    corpus: str
    """Directory made by `python -m training corpus`."""
    base: str | None = None
    """Checkpoint to start from; without one, weights are random and `tokenizer` and the sizes below count."""
    tokenizer: str | None = None
    layers: int = 4
    width: int = 256
    attention_heads: int = 4
    steps: int = 10_000
    batch_size: int = 32
    """Pairs a step."""
    accumulate: int = 1
    """Forward passes a step, each over batch_size / accumulate pairs."""
    max_length: int = 128
    """Tokens of a pair with its three specials (BERT paper: 128 for 90 % of the steps)."""
    rate: float = 1e-4
    """Peak learning rate (BERT paper: 1e-4 at batch 256)."""
    warmup: float = 0.01
    """Share of the steps."""
    final_rate: float = 0.0
    """Share of the peak rate at the last step; above zero where another run goes on from this one."""
    weight_decay: float = 0.01
    clip: float = 1.0
    """Largest norm of the gradient (BERT paper)."""
    mask_rate: float = 0.15
    dropout: float = 0.1
    precision: Precision = "fp32"
    """Of the forward and backward pass; bf16 where the processor has it (AVX-512 BF16, AMX, GPUs)."""
    seed: int = 0
    compile: bool = False
    threads: int = 0
    """Threads of torch, 0 = its own choice."""
    save_every: int = 500
    evaluate_every: int = 500
    evaluate_pairs: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise RecipeError(f"mask_rate is {self.mask_rate}, expected a share between 0 and 1; BERT takes 0.15")
        if not 8 <= self.max_length:
            raise RecipeError(f"max_length is {self.max_length}, expected 8 or more tokens; BERT takes 128 or 512")
        if self.batch_size % self.accumulate:
            raise RecipeError(f"accumulate is {self.accumulate}, which does not divide batch_size {self.batch_size}")
        if not self.base and not self.tokenizer:
            raise RecipeError("neither base nor tokenizer is set; pass --set base=CHECKPOINT or --set tokenizer=DIR")


class Batch(NamedTuple):
    """Pairs for the encoder: [B, S] tensors, flat `positions` [n] of the selected tokens and their `labels` [n]."""

    input_ids: Tensor
    token_type_ids: Tensor
    attention_mask: Tensor
    positions: Tensor
    labels: Tensor
    following: Tensor


class Losses(NamedTuple):
    """Sums over a batch: cross-entropies, right answers, and what they are sums over."""

    masked: Tensor
    following: Tensor
    masked_right: Tensor
    following_right: Tensor


def pretrain(recipe: PretrainRecipe, out: Path) -> Checkpoint:
    """Run, or go on with, the recipe; the finished model stands in `out`."""
    run = Run(out, recipe)
    if run.finished:
        return read_checkpoint(out)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)

    # ---- model and data
    checkpoint = start(recipe)
    encoder, heads = checkpoint.encoder, [head.module for head in checkpoint.heads.values()]
    modules = torch.nn.ModuleList([encoder, *heads])
    optimizer = build_optimizer(modules.named_parameters(), recipe.rate, recipe.weight_decay)
    corpus = Corpus(Path(recipe.corpus))
    state = run.resume(checkpoint, optimizer) or {"step": 0, "epoch": 0, "position": 0}
    batches = stream(corpus, checkpoint.tokenizer, recipe, state)
    forward = torch.compile(encoder) if recipe.compile else encoder
    micro = recipe.batch_size // recipe.accumulate

    # ---- loop
    modules.train()
    bar = tqdm(total=recipe.steps, initial=state["step"], unit=" steps", dynamic_ncols=True)
    window: list[Tensor] = []
    began, tokens = time.monotonic(), 0
    for step in range(state["step"], recipe.steps):
        rows, position = next(batches)
        chosen = sum(len(row.masked.labels) for row in rows)
        losses = torch.zeros(4)
        for i in range(0, len(rows), micro):
            batch = collate(rows[i : i + micro], recipe.max_length if recipe.compile else 0)
            with arithmetic(recipe.precision):
                parts = score(forward, heads, batch)
            # sums divided by the whole step's counts: a micro-batch with fewer masks weighs less
            torch.autograd.backward(parts.masked / chosen + parts.following / len(rows))
            losses += torch.stack([part.detach().float() for part in parts])
        norm = torch.nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip)
        set_rate(optimizer, rate_at(recipe, step))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(row.masked.ids) for row in rows)
        window.append(losses / torch.tensor([chosen, len(rows), chosen, len(rows)]))
        done = step + 1
        state = {"epoch": position[0], "position": position[1]}
        bar.update()

        evaluating = done % recipe.evaluate_every == 0 or done == recipe.steps
        if done % 20 == 0 or evaluating:
            figures = describe(torch.stack(window).mean(0))
            values = {f"{key}/{head}": value for head, entry in figures.items() for key, value in entry.items()} | {
                "grad_norm": float(norm),
                "lr": optimizer.param_groups[0]["lr"],
                "tokens_per_s": tokens / (time.monotonic() - began),
            }
            check_finite(values, done)
            run.log(done, values)
            bar.set_postfix({k: f"{v:.3g}" for k, v in values.items()})
            window, began, tokens = [], time.monotonic(), 0
        if evaluating:
            run.log_figures(done, evaluate(checkpoint, recipe))
            began = time.monotonic()
        if done % recipe.save_every == 0 and done < recipe.steps:
            run.save(done, checkpoint, optimizer, state)
            began = time.monotonic()
    bar.close()
    run.finish(checkpoint)
    return checkpoint


def start(recipe: PretrainRecipe) -> Checkpoint:
    """The base with both pretraining heads, fresh where it has none; or random weights."""
    if recipe.base:
        checkpoint = read_base(Path(recipe.base))
        set_dropout(checkpoint.encoder, recipe.dropout)
    else:
        tokenizer = Tokenizer.read(Path(recipe.tokenizer or ""))
        config = EncoderConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.attention_heads,
            intermediate_size=4 * recipe.width,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
        )
        checkpoint = Checkpoint(config, Encoder(config), tokenizer)
    specs = {"fill-mask": HeadSpec("fill-mask", []), "nsp": HeadSpec("pair", NSP_LABELS)}
    embedding = checkpoint.encoder.embeddings.word
    for name, spec in specs.items():
        fresh = Head(spec, build_head(spec.task, len(spec.labels), checkpoint.config, embedding))
        if name not in checkpoint.heads and spec.task == "fill-mask":
            set_unigram_bias(fresh.module, Corpus(Path(recipe.corpus)))
        checkpoint.heads[name] = checkpoint.heads.get(name, fresh)
    checkpoint.heads = {name: checkpoint.heads[name] for name in specs}
    if recipe.max_length > checkpoint.config.max_position_embeddings:
        raise RecipeError(
            f"max_length is {recipe.max_length}, but the encoder has {checkpoint.config.max_position_embeddings} "
            "positions; lower max_length"
        )
    return checkpoint


@torch.no_grad()
def set_unigram_bias(head: torch.nn.Module, corpus: Corpus) -> None:
    """Start at the frequencies of the corpus: a bias of zero takes ten thousand steps to get there, and until then the
    rare rows of the tied embedding are pushed aside, all in one direction."""
    assert isinstance(head, MaskedTokenHead)
    counts = np.bincount(corpus.tokens, minlength=len(head.bias)) + 1.0  # a token that is not there may come still
    log_shares = np.log(counts / counts.sum())
    head.bias.copy_(torch.from_numpy(log_shares - log_shares.mean()))


def rate_at(recipe: PretrainRecipe, step: int) -> float:
    return recipe.rate * schedule(step, recipe.steps, round(recipe.warmup * recipe.steps), recipe.final_rate)


def set_dropout(encoder: Encoder, probability: float) -> None:
    """Train with another dropout than the base's config.json says."""
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = probability
    for layer in encoder.layers:
        layer.attention_dropout = probability  # type: ignore[assignment]  # a ModuleList forgets its kind


# ---- data ----------------------------------------------------------------------------------------------------------


class MaskedPair(NamedTuple):
    """A pair with its specials, masked."""

    masked: Masked
    segments: np.ndarray[tuple[int], np.dtype[np.int64]]
    following: int


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    special = np.array(sorted(tokenizer.special_ids), dtype=np.int64)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), special)
    return Vocabulary(tokenizer.mask_id, special, ordinary)


def stream(
    corpus: Corpus, tokenizer: Tokenizer, recipe: PretrainRecipe, state: dict[str, int]
) -> Iterator[tuple[list[MaskedPair], tuple[int, int]]]:
    """Yield the rows of each step and the (epoch, position) after them; starts at the position of `state`."""
    vocabulary = vocabulary_of(tokenizer)
    epoch, position = state["epoch"], state["position"]
    while True:
        pairs = sample_pairs(corpus, recipe.max_length, recipe.seed, epoch)
        while position + recipe.batch_size <= len(pairs):
            rows = [
                build_row(corpus, tokenizer, vocabulary, pairs[i], recipe, (recipe.seed, epoch, i))
                for i in range(position, position + recipe.batch_size)
            ]
            position += recipe.batch_size
            yield rows, (epoch, position)
        if recipe.batch_size > len(pairs):
            raise RecipeError(
                f"batch_size is {recipe.batch_size}, but {corpus.directory} gives {len(pairs)} pairs an epoch; lower "
                "batch_size or build the corpus of more text"
            )
        epoch, position = epoch + 1, 0


def build_row(
    corpus: Corpus,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    pair: Ranges,
    recipe: PretrainRecipe,
    key: tuple[int, int, int],
) -> MaskedPair:
    """Cut, join and mask a pair with the generator of `key` = (seed, epoch, index) alone."""
    rng = np.random.default_rng(key)
    a_start, a_end, b_start, b_end, label = (int(value) for value in pair)
    a, b = corpus.tokens[a_start:a_end], corpus.tokens[b_start:b_end]
    a, b = truncate_pair(a, b, recipe.max_length - 3, rng)
    cls, sep = [tokenizer.cls_id], [tokenizer.sep_id]
    ids = np.concatenate([cls, a, sep, b, sep]).astype(np.int64)
    segments = np.repeat([0, 1], [len(a) + 2, len(b) + 1])
    return MaskedPair(mask_tokens(ids, vocabulary, recipe.mask_rate, rng), segments, label)


def collate(rows: list[MaskedPair], length: int = 0) -> Batch:
    """Pad to the longest row, or to `length` where a compiled graph wants one shape."""
    width = max(length, *(len(row.masked.ids) for row in rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    segments, mask = torch.zeros_like(ids), torch.zeros_like(ids)
    positions = []
    for number, row in enumerate(rows):
        size = len(row.masked.ids)
        ids[number, :size] = torch.from_numpy(row.masked.ids)
        segments[number, :size] = torch.from_numpy(row.segments)
        mask[number, :size] = 1
        positions.append(torch.from_numpy(row.masked.columns) + number * width)
    labels = torch.from_numpy(np.concatenate([row.masked.labels for row in rows]))
    following = torch.tensor([row.following for row in rows])
    return Batch(ids, segments, mask, torch.cat(positions), labels, following)


# ---- losses --------------------------------------------------------------------------------------------------------


def score(encoder: Callable[..., Tensor], heads: Sequence[torch.nn.Module], batch: Batch) -> Losses:
    """Sums of both cross-entropies; the vocabulary's matrix product is paid at the selected positions only."""
    hidden = encoder(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    tokens = heads[0](hidden.flatten(0, 1)[batch.positions]).float()
    following = heads[1](hidden[:, 0]).float()
    return Losses(
        F.cross_entropy(tokens, batch.labels, reduction="sum"),
        F.cross_entropy(following, batch.following, reduction="sum"),
        (tokens.argmax(-1) == batch.labels).sum(),
        (following.argmax(-1) == batch.following).sum(),
    )


@torch.inference_mode()
def evaluate(checkpoint: Checkpoint, recipe: PretrainRecipe) -> dict[str, dict[str, float]]:
    """Losses and accuracies on the held-out part of the corpus, at 15 % masks whatever the recipe trains with."""
    corpus = Corpus(Path(recipe.corpus), "validation")
    if len(corpus) < 2:
        return {}
    modules = [checkpoint.encoder, checkpoint.heads["fill-mask"].module, checkpoint.heads["nsp"].module]
    for module in modules:
        module.eval()
    fixed = PretrainRecipe(corpus=recipe.corpus, base="-", max_length=recipe.max_length, mask_rate=0.15)
    pairs = sample_pairs(corpus, recipe.max_length, EVALUATION_SEED, 0)[: recipe.evaluate_pairs]
    vocabulary = vocabulary_of(checkpoint.tokenizer)
    sums, counts = torch.zeros(4), torch.zeros(4)
    for i in range(0, len(pairs), 32):
        keys = range(i, min(i + 32, len(pairs)))
        rows = [
            build_row(corpus, checkpoint.tokenizer, vocabulary, pairs[k], fixed, (EVALUATION_SEED, 0, k)) for k in keys
        ]
        batch = collate(rows)
        sums += torch.stack([part.float() for part in score(modules[0], modules[1:], batch)])
        counts += torch.tensor([len(batch.labels), len(rows), len(batch.labels), len(rows)])
    for module in modules:
        module.train()
    return describe(sums / counts)


def describe(means: Tensor) -> dict[str, dict[str, float]]:
    """Name the means of `Losses`, by head."""
    masked, following, masked_right, following_right = means.tolist()
    return {
        "fill-mask": {"loss": masked, "accuracy": masked_right},
        "nsp": {"loss": following, "accuracy": following_right},
    }


def check_finite(values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingError(f"{name} is {value} at step {step}; lower the rate or raise warmup, and resume")
