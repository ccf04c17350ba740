"""Pretraining with masked tokens and next sentences (Devlin et al., 2018), from random weights or from an encoder.

    python -m training pretrain training/recipes/continue.toml --out RUN --set corpus=CORPUS --set base=DIR
    torchrun --nproc-per-node 2 -m training pretrain …        the same in several processes

The same command again resumes. Pairs and masks depend on (seed, epoch, index) alone, dropout on (seed, step, process).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import nn
from tqdm import tqdm

from models.checkpoint import NSP_LABELS, Checkpoint, Head, read_checkpoint
from models.config import EncoderConfig
from models.encoder import Encoder
from models.heads import MaskedTokenHead, build_head
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.base import note_length, read_base
from training.base import set_dropout as set_dropout  # for who finetunes as well
from training.batches import MaskedPair, Rows, collate
from training.corpus import TOKENIZER, Corpus
from training.distillation import Teacher
from training.errors import RecipeError
from training.files import alone
from training.losses import Losses, counted_by, score, total
from training.optimizer import build_optimizer, schedule, set_rates
from training.pairs import longest_row
from training.precision import Precision, arithmetic
from training.processes import Processes
from training.progress import tell
from training.pruning import check_sizes
from training.recipe import Dropout, NotNegative, Positive, Seed, Share, Threads
from training.run import Run, seed_step
from training.window import Window, check_finite, describe, unigram_entropy
from training.word_vectors import embed_words

EVALUATION_SEED = 1 << 20
"""Masks of the held-out text are the same at every evaluation, and unlike those of any epoch."""
SAMPLED = 1 << 15
"""Tokens on which a teacher's hidden states are looked at."""
PHASE_EPOCHS = 1 << 10
"""More than a phase has."""
LOGGED_EVERY = 20
"""Steps."""
SINGLE = ("steps", "max_length", "batch_size")
"""Fields that phases stand in place of."""
SPECS = {"fill-mask": HeadSpec("fill-mask", []), "nsp": HeadSpec("pair", NSP_LABELS)}
"""The heads of pretraining, by name."""


@dataclass(frozen=True)
class Phase:
    """A part of a run with rows of its own length (BERT paper: 128 for 90 % of the steps, then 512)."""

    steps: PositiveInt
    max_length: PositiveInt
    batch_size: PositiveInt


@dataclass(frozen=True)
class PretrainRecipe:
    """What a pretraining run is."""

    corpus: str
    """Directory made by `python -m training corpus`."""
    base: str | None = None
    """Checkpoint or bundle to start from; without one, weights are random and the sizes below count."""
    tokenizer: str | None = None
    """Of random weights; by default the corpus' own."""
    word_vectors: bool = False
    """Begin random weights with the word embedding that counting in the corpus gives, some minutes, once."""
    layers: PositiveInt = 4
    width: PositiveInt = 256
    attention_heads: PositiveInt = 4
    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 32
    """Pairs a step, of all processes together."""
    accumulate: PositiveInt = 1
    """Forward passes a step and process, each over an equal part of its pairs."""
    max_length: PositiveInt = 128
    """Tokens of a pair with its three specials."""
    phases: list[Phase] = field(default_factory=list)
    """In place of steps, batch_size and max_length: parts of the run, one after the other, under one schedule."""
    nsp: bool = True
    """Pairs and next sentences; without them each row is one run of text, and the only head is fill-mask."""
    mask_rate: float = 0.15
    whole_words: bool = False
    """Select words with all their pieces."""
    rate: Positive = 1e-4
    """Peak learning rate (BERT paper: 1e-4 at batch 256)."""
    head_rate: Positive | None = None
    """Peak rate of heads that the base lacks, which have further to go than its encoder; by default `rate`."""
    freeze_embeddings: bool = False
    """Keep the base's word embedding, which is the decoder too. Adam moves every row of it at every step, for each is
    an answer that was not right: those of rare words, which are seldom read, go astray."""
    warmup: Share = 0.01
    """Share of the steps."""
    final_rate: Share = 0.0
    """Share of the peak rate at the last step; above zero where another run goes on from this one."""
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    """Largest norm of the gradient (BERT paper)."""
    dropout: Dropout = 0.1
    precision: Precision = "fp32"
    """Of the forward and backward pass; bf16 where the processor has it (AVX-512 BF16, AMX, GPUs)."""
    seed: Seed = 0
    compile: bool = False
    threads: Threads = 0
    """Threads of torch, 0 = its own choice."""
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_pairs: PositiveInt = 256
    teacher: str | None = None
    """Checkpoint or bundle of the same vocabulary, to learn from beside the text."""
    teacher_share: float = 0.0
    """Weight of the distributions of its fill-mask head, at twice its time; the labels have the rest."""
    state_weight: NotNegative = 30.0
    """Weight of the distance to its hidden states, which is 1 for a student that knows their mean alone."""
    plateau_after: NonNegativeInt = 1000
    """Steps after which a loss that is no better than the frequencies of tokens ends the run."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise RecipeError(f"mask_rate is {self.mask_rate}, expected a share between 0 and 1; BERT takes 0.15")
        if self.freeze_embeddings and not self.base:
            raise RecipeError("freeze_embeddings is true, but there is no base, and random ones must learn; name one")
        if not 0 <= self.teacher_share <= 1:
            raise RecipeError(f"teacher_share is {self.teacher_share}, expected a share from 0 to 1; 0.5 weighs alike")
        for phase in self.parts:
            if not 8 <= phase.max_length:
                raise RecipeError(f"max_length is {phase.max_length}, expected 8 or more tokens; BERT takes 128 or 512")
            if phase.batch_size % self.accumulate:
                raise RecipeError(
                    f"accumulate is {self.accumulate}, expected a divisor of batch_size {phase.batch_size}; change one"
                )

    @property
    def unread(self) -> list[str]:
        """Fields that were given beside phases, a base or a teacher, which stand in their place."""
        replaced = [*(SINGLE if self.phases else ()), *(["tokenizer"] if self.base else ())]
        replaced += ["word_vectors"] if self.base or self.teacher else []
        given = [field for field in fields(self) if field.name in replaced]
        return [field.name for field in given if getattr(self, field.name) != field.default]

    @property
    def parts(self) -> list[Phase]:
        """The phases, one where the recipe names none."""
        return self.phases or [Phase(self.steps, self.max_length, self.batch_size)]

    @property
    def specs(self) -> dict[str, HeadSpec]:
        """The heads that learn, by name."""
        return {name: spec for name, spec in SPECS.items() if self.nsp or name != "nsp"}

    @property
    def longest(self) -> int:
        """Tokens of the longest rows."""
        return max(phase.max_length for phase in self.parts)

    @property
    def all_steps(self) -> int:
        return sum(phase.steps for phase in self.parts)


def pretrain(recipe: PretrainRecipe, out: Path) -> Checkpoint:
    """Run, or go on with, the recipe; the finished model stands in `out`."""
    processes = Processes()
    with processes.joined(), alone(out) if processes.first else nullcontext():
        return train(recipe, out, processes)


def train(recipe: PretrainRecipe, out: Path, processes: Processes) -> Checkpoint:
    """The run, as each of its processes sees it."""
    run = Run(out, recipe, processes, map(Path, filter(None, (recipe.corpus, recipe.base, recipe.teacher))))
    if run.finished:
        return read_checkpoint(out)
    torch.manual_seed(recipe.seed)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)

    if recipe.unread and processes.first:
        tell(f"{', '.join(recipe.unread)}: not read, for phases, base or teacher of the recipe say it")

    # ---- model and data
    checkpoint = start(recipe)
    if checkpoint.config.max_length < recipe.longest and processes.first:
        longest = checkpoint.config.max_length
        tell(f"max_length is {recipe.longest}, but no row of {recipe.corpus} has more than {longest} tokens")
    checkpoint.heads = {name: checkpoint.heads[name] for name in recipe.specs}
    encoder, heads = checkpoint.encoder, [head.module for head in checkpoint.heads.values()]
    modules = nn.ModuleList([encoder, *heads]).to(processes.device)
    encoder.embeddings.word.requires_grad_(not recipe.freeze_embeddings)
    optimizer = build_optimizer(checkpoint, recipe.rate, recipe.weight_decay)
    corpus = Corpus(Path(recipe.corpus))
    rows_of = [Rows(corpus, checkpoint.tokenizer, recipe, phase.max_length) for phase in recipe.parts]
    teacher = read_teacher(recipe, checkpoint, rows_of[0], processes) if recipe.teacher else None
    state = run.resume(checkpoint, optimizer)
    if not state and not recipe.base:
        if processes.first:
            inform(encoder, recipe, corpus, teacher)
        processes.share(encoder.parameters())
    state = state or {"step": 0}
    steps = stream(rows_of, recipe, state, processes)
    forward = torch.compile(encoder) if recipe.compile else encoder
    unigram = unigram_entropy(corpus, checkpoint.tokenizer.vocab_size)
    window = Window(recipe, checkpoint.config, unigram, processes.device)

    # ---- loop
    modules.train()
    bar = tqdm(
        total=recipe.all_steps, initial=state["step"], unit=" steps", dynamic_ncols=True, disable=not processes.first
    )
    for step in range(state["step"], recipe.all_steps):
        rows, phase, state = next(steps)
        window.rows_came()
        counts = torch.tensor([sum(len(row.masked.labels) for row in rows), len(rows)], device=processes.device)
        processes.add([counts])
        chosen, pairs = counts.tolist()
        seed_step(recipe.seed, step, processes.rank)
        losses = torch.zeros(len(Losses._fields), device=processes.device)
        for micro in split(rows, recipe.accumulate):
            batch = collate(micro, phase.max_length if recipe.compile else 0).to(processes.device)
            with arithmetic(recipe.precision, processes.device.type):
                parts = score(forward, heads, batch, teacher)
            # sums divided by the whole step's counts: a micro-batch with fewer masks weighs less
            torch.autograd.backward(total(parts, chosen, pairs, recipe))
            losses += torch.stack([part.detach().float() for part in parts])
        processes.add([losses, *(parameter.grad for parameter in modules.parameters() if parameter.grad is not None)])
        norm = nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip)
        check_finite({"grad_norm": float(norm)}, step)  # before it reaches the weights, and a checkpoint
        share = share_at(recipe, step)
        set_rates(optimizer, share * recipe.rate, share * (recipe.head_rate or recipe.rate))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        window.add(losses.cpu() / counted_by(chosen, pairs), rows)
        done = step + 1
        bar.update()

        evaluating = done % recipe.evaluate_every == 0 or done == recipe.all_steps
        if done % LOGGED_EVERY == 0 or evaluating:
            values = window.close() | {"grad_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]}
            window.check(values, done)
            run.log(done, values)
            bar.set_postfix({key: f"{value:.3g}" for key, value in values.items()})
        if evaluating and processes.first:
            run.log_figures(done, evaluate(checkpoint, recipe, phase.max_length))
        if done % recipe.save_every == 0 and done < recipe.all_steps:
            run.save(done, checkpoint, optimizer, state)
        window.open()
    bar.close()
    run.finish(checkpoint)
    return checkpoint


def read_teacher(recipe: PretrainRecipe, student: Checkpoint, rows: Rows, processes: Processes) -> Teacher:
    """The recipe's teacher, looked at on the first of the run's `rows`."""
    count = min(rows.count(0), max(1, SAMPLED // rows.max_length))
    sample = collate([rows.row(0, i) for i in range(count)]).to(processes.device)
    teacher = Teacher.read(
        Path(recipe.teacher or ""), student, recipe.longest, sample, distributions=recipe.teacher_share > 0
    )
    if not recipe.base:
        check_sizes(teacher.encoder.config, student.config)  # in every process: only the first one prunes
    processes.share([teacher.components])  # whose signs depend on the processor
    return teacher


def inform(encoder: Encoder, recipe: PretrainRecipe, corpus: Corpus, teacher: Teacher | None) -> None:
    """Begin random weights at what is known without learning."""
    if teacher:
        teacher.hand_down(encoder)
    elif recipe.word_vectors:
        embed_words(encoder, corpus)


def stream(
    rows_of: Sequence[Rows], recipe: PretrainRecipe, state: dict[str, int], processes: Processes
) -> Iterator[tuple[list[MaskedPair], Phase, dict[str, int]]]:
    """Yield this process's rows of each step from the one of `state` on, its phase, and the position to resume from.

    `rows_of`: those that each phase draws from.
    """
    before = 0
    for phase in recipe.parts:
        if phase.batch_size % (processes.count * recipe.accumulate):
            raise RecipeError(
                f"batch_size is {phase.batch_size}, which {processes.count} processes with accumulate = "
                f"{recipe.accumulate} do not divide; choose a multiple of {processes.count * recipe.accumulate}"
            )
    for number, phase in enumerate(recipe.parts):
        left = before + phase.steps - max(before, state["step"])
        resumed = state.get("phase") == number
        begun = (state["epoch"], state["position"]) if resumed else (first_epoch(recipe, number), 0)
        steps = rows_of[number].steps(phase.batch_size, begun, processes.part)
        for rows, (epoch, position) in islice(steps, max(0, left)):
            yield rows, phase, {"phase": number, "epoch": epoch, "position": position}
        before += phase.steps


def first_epoch(recipe: PretrainRecipe, number: int) -> int:
    """0, but for a phase of the length of an earlier one, whose rows would come again: an epoch that none reaches."""
    lengths = [phase.max_length for phase in recipe.parts[: number + 1]]
    return PHASE_EPOCHS * (lengths.count(lengths[-1]) - 1)


def split(rows: list[MaskedPair], parts: int) -> Iterator[list[MaskedPair]]:
    size = len(rows) // parts
    return (rows[i : i + size] for i in range(0, len(rows), size))


def start(recipe: PretrainRecipe) -> Checkpoint:
    """The base with its heads and those of pretraining, fresh where it has none; or random weights."""
    corpus = Corpus(Path(recipe.corpus))
    if recipe.base:
        checkpoint = read_base(Path(recipe.base))
    else:
        tokenizer = Tokenizer.read(Path(recipe.tokenizer or Path(recipe.corpus) / TOKENIZER))
        config = EncoderConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.attention_heads,
            intermediate_size=4 * recipe.width,
            hidden_dropout_prob=recipe.dropout,
            attention_probs_dropout_prob=recipe.dropout,
            trained_length=longest_row(corpus, recipe.longest, recipe.nsp),
        )
        checkpoint = Checkpoint(config, Encoder(config), tokenizer)
    corpus.check_vocabulary(checkpoint.tokenizer)
    embedding = checkpoint.encoder.embeddings.word
    for name, spec in recipe.specs.items():
        if name not in checkpoint.heads:
            module = build_head(spec.task, len(spec.labels), checkpoint.config, embedding)
            if spec.task == "fill-mask":
                set_unigram_bias(module, corpus)
            checkpoint.heads[name] = Head(spec, module)
            checkpoint.fresh.add(name)
    set_dropout(checkpoint, recipe.dropout, recipe.dropout)
    if recipe.longest > checkpoint.config.max_position_embeddings:
        raise RecipeError(
            f"max_length is {recipe.longest}, but the encoder has {checkpoint.config.max_position_embeddings} "
            "positions; lower max_length"
        )
    note_length(checkpoint, longest_row(corpus, recipe.longest, recipe.nsp))
    return checkpoint


@torch.no_grad()
def set_unigram_bias(head: nn.Module, corpus: Corpus) -> None:
    """Start at the frequencies of the corpus: a bias of zero takes ten thousand steps to get there, and until then the
    rare rows of the tied embedding are pushed aside, all in one direction."""
    assert isinstance(head, MaskedTokenHead)
    counts = corpus.token_counts(len(head.bias)) + 1.0  # a token that is not there may come still
    log_shares = np.log(counts / counts.sum())
    head.bias.copy_(torch.from_numpy(log_shares - log_shares.mean()))


def share_at(recipe: PretrainRecipe, step: int) -> float:
    steps = recipe.all_steps
    return schedule(step, steps, round(recipe.warmup * steps), recipe.final_rate)


# ---- held-out text ---------------------------------------------------------------------------------------------------


@torch.inference_mode()
def evaluate(checkpoint: Checkpoint, recipe: PretrainRecipe, max_length: int) -> dict[str, dict[str, float]]:
    """Losses and accuracies on held-out rows of a phase's length, at 15 % masks whatever the recipe trains with."""
    corpus = Corpus(Path(recipe.corpus), "validation")
    if len(corpus) < 2 or (recipe.nsp and not corpus.has_pairs):
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
