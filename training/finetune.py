"""Finetuning: one head alone, or several heads on one encoder.

    python -m training finetune training/recipes/starter.toml --out RUN --set base=CHECKPOINT --set data=DIR

Several heads are sampled in proportion to their `share`, a batch of one head a step, under one optimizer. A `corpus`
keeps the pretraining heads alive in the mixture, for an encoder that learns other tasks forgets them. The same command
again resumes.
"""

import itertools
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor, nn
from tqdm import tqdm

from models.checkpoint import Checkpoint, Head, read_checkpoint
from models.heads import build_head
from models.manifest import NAME
from models.session import pad
from models.task import HeadSpec, TaskName
from training.base import read_base
from training.batches import Rows, collate
from training.best import Best
from training.corpus import Corpus
from training.data import Example, labels_of, read_examples
from training.errors import RecipeError, TrainingError
from training.evaluate import check_labels
from training.evaluate import score as evaluate_head
from training.losses import score as score_pretraining
from training.metrics import fit_temperature
from training.optimizer import build_optimizer, schedule, set_rates
from training.precision import Precision, arithmetic
from training.predictors import CheckpointPredictor
from training.pretrain import SPECS, PretrainRecipe, set_dropout, start
from training.pretrain import evaluate as evaluate_pretraining
from training.processes import Processes
from training.progress import tell
from training.run import Run, seed_step
from training.targets import Target, consistency, log_probabilities, loss, targets
from training.window import check_finite

SHORTEST = 8
"""Tokens of a row that are worth training on."""
CHUNK = 50
"""Batches that are sorted by length together: little padding, and still a random order."""


@dataclass(frozen=True)
class HeadRecipe:
    """One labelled head of a finetuning run."""

    task: TaskName
    train: list[str]
    """Files of examples, below `data` where that is set."""
    validation: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """In the order of the logits; found in the training data if empty."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters whose default this head changes."""
    share: float = 1.0
    """How often a step is of this head, in proportion to the shares of all."""
    batch_size: PositiveInt = 32
    max_length: PositiveInt = 128
    """Longer examples are cut (classify, pair) or fall into windows (tag, qa)."""
    consistency: float = 0.0
    """Weight of the distance between two passes, which costs a second one (R-Drop, arXiv 2106.14448); wants dropout."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """What a finetuning run is."""

    base: str
    """Checkpoint to start from; heads of the same name go on from theirs."""
    heads: dict[str, HeadRecipe]
    data: str = ""
    corpus: str | None = None
    """Keeps the heads fill-mask and nsp learning beside the others."""
    corpus_share: float = 1.0
    corpus_batch_size: PositiveInt = 32
    corpus_mask_rate: float = 0.15
    """Share of the corpus' tokens that are selected, as `mask_rate` of pretraining."""
    corpus_rotate: int = 1
    """Epoch of the corpus to begin with: 0 is what pretraining began with."""
    steps: PositiveInt = 1000
    rate: float = 5e-5
    head_rate: float = 5e-4
    """Peak rate of heads that the base lacks, which have further to go than the encoder."""
    freeze_embeddings: bool = False
    """Keep the word embedding as the base has it (see PretrainRecipe)."""
    freeze_encoder: bool = False
    """Keep all of the encoder: the heads learn to read it, and those of the base that are not named here stay too."""
    warmup: float = 0.06
    weight_decay: float = 0.01
    clip: float = 1.0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    """Of attention's probabilities; dear on CPU: 2,000 tokens/s with it, 3,500 without, at 200 tokens a row."""
    corpus_dropout: float = 0.0
    """Of steps of the corpus, whose rows are seldom seen twice (cramming, arXiv 2212.14034)."""
    precision: Precision = "fp32"
    """Of the forward and backward pass; bf16 where the processor has it (AVX-512 BF16, AMX, GPUs)."""
    seed: int = 0
    threads: int = 0
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_examples: PositiveInt = 500
    """Examples a head at each evaluation on the way; the last one takes all."""
    patience: int = 0
    """Stop after so many evaluations without a better mean of the headline figures, and keep the best; 0 = never."""

    def __post_init__(self) -> None:
        if not self.heads:
            raise RecipeError("heads is empty, expected one table [heads.NAME] or more; add one")
        for name, head in self.heads.items():
            if not re.match(NAME, name):
                raise RecipeError(f"heads.{name}: expected a name of letters, digits, '.', '_' and '-'; rename it")
            if head.task == "fill-mask":
                raise RecipeError(f"heads.{name}.task is fill-mask, which learns from text alone; set corpus instead")
            if head.consistency and not (self.dropout or self.attention_dropout):
                raise RecipeError(
                    f"heads.{name}.consistency is {head.consistency}, but without dropout two passes are the same; "
                    "set dropout, or consistency = 0"
                )
        if self.patience and not all(head.validation for head in self.heads.values()):
            raise RecipeError("patience needs validation files for every head; add them or set patience = 0")


def finetune(recipe: FinetuneRecipe, out: Path) -> Checkpoint:
    """Run, or go on with, the recipe; the finished checkpoint with its measured heads stands in `out`."""
    processes = Processes()
    if processes.count > 1:
        raise TrainingError("finetune runs in one process; start it without torchrun")
    run = Run(out, recipe, processes)
    if run.finished:
        return read_checkpoint(out)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)

    # ---- model and data
    sets = {name: read_files(recipe, head.task, head.train) for name, head in recipe.heads.items()}
    checkpoint = prepare(recipe, sets)
    validation = {name: read_files(recipe, head.task, head.validation) for name, head in recipe.heads.items()}
    for name, examples in validation.items():
        check_labels(name, checkpoint.heads[name].spec.labels, examples)
    predictor = CheckpointPredictor.of(checkpoint)
    device = processes.device
    modules = nn.ModuleList([checkpoint.encoder, *(head.module for head in checkpoint.heads.values())]).to(device)
    checkpoint.encoder.requires_grad_(not recipe.freeze_encoder)
    if recipe.freeze_embeddings:
        checkpoint.encoder.embeddings.word.requires_grad_(False)
    optimizer = build_optimizer(checkpoint, recipe.rate, recipe.weight_decay)
    best = Best(run.out / "best", recipe.patience)
    state = run.resume(checkpoint, optimizer) or {"step": 0, "best": best.state()}
    best.load(state["best"])
    sources = build_sources(recipe, checkpoint, sets, state["step"])

    # ---- loop
    modules.train()
    bar = tqdm(total=recipe.steps, initial=state["step"], unit=" steps", dynamic_ncols=True)
    window: dict[str, list[float]] = {}
    began, tokens, done = time.monotonic(), 0, state["step"]
    for step in range(done, recipe.steps):
        name = choose(recipe, step)
        seed_step(recipe.seed, step)
        set_dropout(checkpoint, *dropouts(recipe, name))
        with arithmetic(recipe.precision, device.type):
            value, count = sources[name]()
        value.backward()
        norm = nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip)
        share = schedule(step, recipe.steps, round(recipe.warmup * recipe.steps))
        set_rates(optimizer, share * recipe.rate, share * recipe.head_rate)
        check_finite({f"loss/{name}": value.item(), "grad_norm": float(norm)}, step)  # before it reaches the weights
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += count
        window.setdefault(name, []).append(value.item())
        done = step + 1
        bar.update()

        if done % 20 == 0 or done == recipe.steps:
            values = {f"loss/{name}": float(np.mean(losses)) for name, losses in window.items()}
            values |= {"grad_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]}
            values |= {"tokens_per_s": tokens / (time.monotonic() - began)}
            run.log(done, values)
            bar.set_postfix({k.removeprefix("loss/"): f"{v:.3g}" for k, v in values.items()})
            window, began, tokens = {}, time.monotonic(), 0
        if done % recipe.evaluate_every == 0 and done < recipe.steps:
            figures = validate(recipe, checkpoint, predictor, validation, recipe.evaluate_examples)
            run.log_figures(done, figures)
            best.offer(figures, checkpoint)
            began = time.monotonic()
            if best.stale:
                break
        if done % recipe.save_every == 0 and done < recipe.steps:
            run.save(done, checkpoint, optimizer, {"best": best.state()})
            began = time.monotonic()
    bar.close()

    # ---- the finished heads, calibrated and measured
    if recipe.patience and not best.stale:
        best.offer(validate(recipe, checkpoint, predictor, validation, recipe.evaluate_examples), checkpoint)
    best.restore(checkpoint)
    for name in recipe.heads:
        head = checkpoint.heads[name]
        spec = replace(head.spec, temperature=temperature(predictor, name, validation[name]))
        checkpoint.heads[name] = Head(spec, head.module)
    figures = validate(recipe, checkpoint, CheckpointPredictor.of(checkpoint), validation, None)
    run.log_figures(done, figures)
    for name in (*recipe.heads, *(SPECS if recipe.corpus else ())):
        head = checkpoint.heads[name]
        checkpoint.heads[name] = Head(head.spec, head.module, figures.get(name, {}))
    run.finish(checkpoint)
    return checkpoint


# ---- heads and data ------------------------------------------------------------------------------------------------


def read_files(recipe: FinetuneRecipe, task: TaskName, files: Sequence[str]) -> list[Example]:
    read: Any = read_examples  # overloaded a literal each; here the task is a value
    return [example for file in files for example in read(Path(recipe.data) / file, task)]


def prepare(recipe: FinetuneRecipe, sets: dict[str, list[Example]]) -> Checkpoint:
    """The base with the heads of the recipe: its own where they exist, else fresh; beside them those that stay."""
    checkpoint = start(pretraining_recipe(recipe)) if recipe.corpus else read_base(Path(recipe.base))
    longest = checkpoint.config.max_position_embeddings
    known, heads = checkpoint.heads, dict[str, Head]()
    for name, head in recipe.heads.items():
        if not SHORTEST <= head.max_length <= longest:
            raise RecipeError(
                f"heads.{name}.max_length is {head.max_length}, expected {SHORTEST} to {longest} as the base has "
                "positions; change it"
            )
        found = head.labels or ([] if head.task == "qa" else labels_of(sets[name]))  # type: ignore[arg-type]
        goes_on = name in known and goes_on_from(known[name].spec, head, found)
        heads[name] = grown(known[name], head) if goes_on else fresh_head(head, found, checkpoint)
        if not goes_on:
            checkpoint.fresh.add(name)
        if name in known and not goes_on:
            before = known[name].spec
            tell(f"heads.{name} starts anew: that of the base is of {before.task} with {', '.join(before.labels)}")
    kept = {name: known[name] for name in known if recipe.freeze_encoder or (recipe.corpus and name in SPECS)}
    checkpoint.heads = kept | heads if recipe.freeze_encoder else heads | kept
    return checkpoint


def goes_on_from(known: HeadSpec, recipe: HeadRecipe, labels: list[str]) -> bool:
    """Whether a head of the base can learn this on: in the order of its labels, some of which may not be met."""
    if known.task != recipe.task:
        return False
    return known.labels == labels if recipe.labels else set(labels) <= set(known.labels)


def grown(known: Head, recipe: HeadRecipe) -> Head:
    return Head(HeadSpec(recipe.task, known.spec.labels, known.spec.defaults | recipe.defaults), known.module)


def fresh_head(recipe: HeadRecipe, labels: list[str], checkpoint: Checkpoint) -> Head:
    spec = HeadSpec(recipe.task, labels, recipe.defaults)
    return Head(spec, build_head(recipe.task, len(labels), checkpoint.config, checkpoint.encoder.embeddings.word))


def pretraining_recipe(recipe: FinetuneRecipe) -> PretrainRecipe:
    return PretrainRecipe(
        corpus=recipe.corpus or "",
        base=recipe.base,
        batch_size=recipe.corpus_batch_size,
        mask_rate=recipe.corpus_mask_rate,
        seed=recipe.seed,
    )


# ---- batches -------------------------------------------------------------------------------------------------------


def choose(recipe: FinetuneRecipe, step: int) -> str:
    """Draw the head of a step in proportion to the shares; depends on (seed, step) alone."""
    shares = {name: head.share for name, head in recipe.heads.items()}
    if recipe.corpus:
        shares["pretraining"] = recipe.corpus_share
    weights = np.array(list(shares.values()))
    index = np.random.default_rng([recipe.seed, step]).choice(len(weights), p=weights / weights.sum())
    return list(shares)[int(index)]


def dropouts(recipe: FinetuneRecipe, name: str) -> tuple[float, float]:
    """Of the hidden vectors and of attention, in a step of this head."""
    if name == "pretraining":
        return recipe.corpus_dropout, recipe.corpus_dropout
    return recipe.dropout, recipe.attention_dropout


def build_sources(
    recipe: FinetuneRecipe, checkpoint: Checkpoint, sets: dict[str, list[Example]], step: int
) -> dict[str, Any]:
    """For each head a function that gives the loss of its next batch and the tokens in it.

    After a resume the batches of the steps before `step` are passed over, so that the order is the same.
    """
    drawn = [choose(recipe, before) for before in range(step)]
    sources: dict[str, Any] = {}
    for name, head in recipe.heads.items():
        encoded = targets(sets[name], checkpoint.heads[name].spec, checkpoint.tokenizer, head.max_length)
        if cut := [target.cut for target in encoded if target.cut]:
            tell(
                f"heads.{name}: {len(cut)} of {len(encoded)} training examples are longer than max_length "
                f"{head.max_length} and lose up to {max(cut)} tokens"
            )
        batches = itertools.islice(stream(encoded, head, recipe.seed), drawn.count(name), None)
        sources[name] = labelled_source(checkpoint, name, batches, head.consistency)
    if recipe.corpus:
        pretraining = pretraining_recipe(recipe)
        corpus = Corpus(Path(recipe.corpus))
        corpus.check_vocabulary(checkpoint.tokenizer)
        rows = Rows(corpus, checkpoint.tokenizer, pretraining, pretraining.max_length)
        steps = rows.steps(pretraining.batch_size, (recipe.corpus_rotate, 0))
        sources["pretraining"] = pretraining_source(
            checkpoint, itertools.islice(steps, drawn.count("pretraining"), None)
        )
    return sources


def stream(encoded: list[Target], head: HeadRecipe, seed: int) -> Iterator[list[Target]]:
    """Yield batches of like length, epoch after epoch, each in an order drawn from (seed, epoch)."""
    lengths = np.array([len(target.row.input_ids) for target in encoded])
    for epoch in itertools.count():
        for batch in epoch_batches(lengths, head.batch_size, np.random.default_rng([seed, epoch])):
            yield [encoded[i] for i in batch]


def epoch_batches(lengths: NDArray[np.int64], size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Cut one epoch into batches: shuffle, sort by length within chunks, shuffle the batches."""
    order = rng.permutation(len(lengths))
    chunks = [order[i : i + CHUNK * size] for i in range(0, len(order), CHUNK * size)]
    ordered = [chunk[np.argsort(lengths[chunk], kind="stable")] for chunk in chunks]
    batches = [chunk[i : i + size] for chunk in ordered for i in range(0, len(chunk), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def labelled_source(checkpoint: Checkpoint, name: str, batches: Iterator[list[Target]], weight: float) -> Any:
    head = checkpoint.heads[name]

    def source() -> tuple[Tensor, int]:
        batch = next(batches) * (2 if weight else 1)
        logits = head.module(run_encoder(checkpoint, batch)).float()
        lines = log_probabilities(head.spec.task, logits, batch)
        value = loss(lines, batch)
        if weight:
            value = value + weight * consistency(lines)
        return value, sum(len(target.row.input_ids) for target in batch)

    return source


def run_encoder(checkpoint: Checkpoint, batch: Sequence[Target]) -> Tensor:
    """Vectors [positions of all rows, H]."""
    rows = [target.row for target in batch]
    device = next(checkpoint.encoder.parameters()).device
    arrays = pad(rows, checkpoint.tokenizer.pad_id)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    length = tensors["input_ids"].shape[1]
    flat = [number * length + column for number, row in enumerate(rows) for column in row.positions]
    vectors: Tensor = checkpoint.encoder(**tensors, positions=torch.tensor(flat, device=device))
    return vectors


def pretraining_source(checkpoint: Checkpoint, rows: Iterator[Any]) -> Any:
    heads = [checkpoint.heads[name].module for name in ("fill-mask", "nsp")]

    def source() -> tuple[Tensor, int]:
        chosen, _ = next(rows)
        batch = collate(chosen).to(next(checkpoint.encoder.parameters()).device)
        parts = score_pretraining(checkpoint.encoder, heads, batch)
        value = parts.masked / len(batch.labels) + parts.following / len(chosen)
        return value, int(batch.attention_mask.sum())

    return source


# ---- validation ----------------------------------------------------------------------------------------------------


def validate(
    recipe: FinetuneRecipe,
    checkpoint: Checkpoint,
    predictor: CheckpointPredictor,
    validation: dict[str, list[Example]],
    limit: int | None,
) -> dict[str, dict[str, float]]:
    """Figures of every head; limited to an even spread of `limit` examples a head where that is given."""
    figures = {}
    for name, examples in validation.items():
        every = max(1, len(examples) // limit) if limit else 1
        if examples:
            figures[name] = evaluate_head(predictor, name, examples[::every])
    if recipe.corpus:
        pretraining = pretraining_recipe(recipe)
        figures |= evaluate_pretraining(checkpoint, pretraining, pretraining.max_length)
    return figures


def temperature(predictor: CheckpointPredictor, name: str, examples: Sequence[Example]) -> float:
    """Calibrate a classifier on its validation data (Guo et al., 2017), of the lengths that it will be asked."""
    spec = predictor.head(name)
    if spec.task not in ("classify", "pair") or not examples:
        return 1.0
    encoded = targets(examples, spec, predictor.tokenizer, predictor.max_length)
    logits = np.concatenate(
        [predictor.run(name, [t.row for t in encoded[i : i + 32]]) for i in range(0, len(encoded), 32)]
    )
    return fit_temperature(
        np.concatenate(list(logits)).reshape(len(encoded), -1), np.array([t.labels[0] for t in encoded])
    )
