"""Pretraining with masked tokens and next sentences (Devlin et al., 2018), from random weights or from an encoder.

    python -m training pretrain training/recipes/continue.toml --out RUN --set corpus=CORPUS --set base=DIR
    torchrun --nproc-per-node 2 -m training pretrain …        the same in several processes

The same command resumes the run. Pairs and masks depend only on (seed, epoch, index), dropout on (seed, step, process).
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from models.checkpoint import Checkpoint, read_checkpoint
from training.errors import RecipeError
from training.pretraining.batches import MaskedPair, Rows, collate
from training.pretraining.distillation import read_teacher
from training.pretraining.initial_weights import inform, start
from training.pretraining.losses import Losses, counted_by, score, total
from training.pretraining.monitor import Monitor, check_finite, unigram_entropy
from training.pretraining.pretrain_recipe import Phase, PretrainRecipe
from training.pretraining.validation import evaluate
from training.run.atomic_files import alone
from training.run.distributed import Processes
from training.run.interruption import Interruption
from training.run.optimizer import build_optimizer, schedule, set_rates
from training.run.precision import arithmetic, check_precision
from training.run.progress import StepBar, tell
from training.run.run_directory import Run, seed_step
from training.text.corpus import Corpus

PHASE_EPOCHS = 1 << 10
"""Distance between the epoch numbers of phases with rows of one length; more epochs than a phase has."""
LOGGED_EVERY = 20
"""Steps between two lines of metrics.jsonl."""
MANY = 100
"""A corpus with this many batches of tokens certainly fills the first one."""


def pretrain(recipe: PretrainRecipe, out: Path) -> Checkpoint:
    """Run or resume the recipe; the finished model is in `out`."""
    processes = Processes()
    with processes.joined(), alone(out) if processes.first else nullcontext():
        return train(recipe, out, processes)


def train(recipe: PretrainRecipe, out: Path, processes: Processes) -> Checkpoint:
    """Train, in each process of the run."""
    run = Run(out, recipe, processes, map(Path, filter(None, (recipe.corpus, recipe.base, recipe.teacher))))
    if run.finished:
        return read_checkpoint(out)
    torch.manual_seed(recipe.seed)
    run.set_threads(recipe.threads)
    if processes.first:
        check_precision(recipe.precision, processes.device.type)
    if recipe.unread and processes.first:
        tell(f"{', '.join(recipe.unread)}: ignored, because phases, base or teacher of the recipe set it")

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
    check_batches(recipe, rows_of, processes.count)
    teacher = read_teacher(recipe, checkpoint, rows_of[0], processes) if recipe.teacher else None
    state = run.resume(checkpoint, optimizer)
    if not state and not recipe.base:
        if processes.first:
            inform(encoder, recipe, corpus, teacher)
        processes.share(encoder.parameters())
    state = state or {"step": 0}
    best = Best(*state.pop("best", ()))
    steps = stream(rows_of, recipe, state, processes)
    forward = torch.compile(encoder) if recipe.compile else encoder
    unigram = unigram_entropy(corpus, checkpoint.tokenizer.vocab_size)
    monitor = Monitor(recipe, checkpoint.config, unigram, processes.device)

    # ---- loop
    modules.train()
    bar = StepBar(recipe.all_steps, state["step"], disable=not processes.first)
    interruption = Interruption(processes.count)
    for step in interruption.watch(range(state["step"], recipe.all_steps)):
        rows, phase, state = next(steps)
        monitor.rows_came()
        counts = torch.tensor([sum(len(row.masked.labels) for row in rows), len(rows)], device=processes.device)
        processes.add([counts])
        chosen, pairs = counts.tolist()
        seed_step(recipe.seed, step, processes.rank)
        losses = torch.zeros(len(Losses._fields), device=processes.device)
        for micro in split(rows, recipe.accumulate):
            batch = collate(micro, phase.max_length if recipe.compile else 0).to(processes.device)
            with arithmetic(recipe.precision, processes.device.type):
                parts = score(forward, heads, batch, teacher)
            # sums are divided by the counts of the whole step, so a micro-batch with fewer masks weighs less
            torch.autograd.backward(total(parts, chosen, pairs, recipe))
            losses += torch.stack([part.detach().float() for part in parts])
        # a signal may reach the processes in different steps; this sum makes all stop after the same step
        asked = torch.tensor(int(interruption.asked), device=processes.device)
        gradients = (parameter.grad for parameter in modules.parameters() if parameter.grad is not None)
        processes.add([asked, losses, *gradients])
        norm = nn.utils.clip_grad_norm_(modules.parameters(), recipe.clip)
        check_finite({"grad_norm": float(norm)}, step)  # checked before it reaches the weights and a checkpoint
        share = share_at(recipe, step)
        set_rates(optimizer, share * recipe.rate, share * (recipe.head_rate or recipe.rate))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        monitor.add(losses.cpu() / counted_by(chosen, pairs), rows)
        done, stopping = step + 1, bool(asked)
        bar.update()

        evaluating = done % recipe.evaluate_every == 0 or done == recipe.all_steps
        if done % LOGGED_EVERY == 0 or evaluating:
            values = monitor.close() | {"grad_norm": float(norm), "lr": optimizer.param_groups[0]["lr"]}
            monitor.check(values, done)
            run.log(done, values)
            bar.show([f"loss {values['loss/fill-mask']:.3g}", f"epoch {state['seen']:.1f}", *best.short])
        if evaluating and processes.first:
            figures = evaluate(checkpoint, recipe, phase.max_length)
            run.log_figures(done, figures)
            best = best.after(done, figures)
        if stopping or (done % recipe.save_every == 0 and done < recipe.all_steps):
            run.save(done, checkpoint, optimizer, state | {"best": best})
        if stopping:
            processes.wait()  # torchrun ends all processes as soon as one has ended
            interruption.end(done)
        monitor.open()
    bar.close()
    run.finish(checkpoint)
    if processes.first:
        seen = f"{state.get('seen', 0):.2f} epochs of the corpus"
        tell(f"{recipe.all_steps:,} steps, {seen}{best.sentence}")
    return checkpoint


class Best(NamedTuple):
    """The best accuracy of masked tokens on held-out text so far, and its step; 0 before any."""

    accuracy: float = -1.0
    step: int = 0

    def after(self, step: int, figures: dict[str, dict[str, float]]) -> "Best":
        accuracy = figures.get("fill-mask", {}).get("accuracy", self.accuracy)
        return Best(accuracy, step) if accuracy > self.accuracy else self

    @property
    def short(self) -> list[str]:
        return [f"best {self.accuracy:.0%}"] if self.step else []

    @property
    def sentence(self) -> str:
        found = f"; best accuracy of held-out masked tokens: {self.accuracy:.1%}, at step {self.step:,}"
        return found if self.step else ""


def check_batches(recipe: PretrainRecipe, rows_of: Sequence[Rows], processes: int) -> None:
    """Raise RecipeError for a phase whose batches cannot be filled or divided, before earlier phases run."""
    for phase, rows in zip(recipe.parts, rows_of, strict=True):
        if phase.batch_size % (processes * recipe.accumulate):
            raise RecipeError(
                f"batch_size is {phase.batch_size}, which {processes} processes with accumulate = "
                f"{recipe.accumulate} do not divide; choose a multiple of {processes * recipe.accumulate}"
            )
        if len(rows.corpus.tokens) < MANY * phase.batch_size * phase.max_length:
            rows.check(phase.batch_size, 0)  # a larger corpus has enough, and counting takes minutes


def stream(
    rows_of: Sequence[Rows], recipe: PretrainRecipe, state: dict[str, Any], processes: Processes
) -> Iterator[tuple[list[MaskedPair], Phase, dict[str, Any]]]:
    """Yield, from the step of `state` on, this process's rows, the phase, and the position to resume from.

    `rows_of` has the rows of each phase. The position also has the number of epochs "seen".
    """
    before, seen = 0, state.get("seen", 0.0)
    for number, phase in enumerate(recipe.parts):
        left = before + phase.steps - max(before, state["step"])
        resumed = state.get("phase") == number
        begun = (state["epoch"], state["position"]) if resumed else (first_epoch(recipe, number), 0)
        steps = rows_of[number].steps(phase.batch_size, begun, processes.part)
        for rows, (epoch, position) in islice(steps, max(0, left)):
            seen += phase.batch_size / rows_of[number].count(epoch)
            yield rows, phase, {"phase": number, "epoch": epoch, "position": position, "seen": seen}
        before += phase.steps


def first_epoch(recipe: PretrainRecipe, number: int) -> int:
    """Return the first epoch of a phase.

    It is 0, unless an earlier phase had rows of the same length. Then it is an epoch that the earlier phase cannot
    reach, so rows are not repeated.
    """
    lengths = [phase.max_length for phase in recipe.parts[: number + 1]]
    return PHASE_EPOCHS * (lengths.count(lengths[-1]) - 1)


def split(rows: list[MaskedPair], parts: int) -> Iterator[list[MaskedPair]]:
    size = len(rows) // parts
    return (rows[i : i + size] for i in range(0, len(rows), size))


def share_at(recipe: PretrainRecipe, step: int) -> float:
    steps = recipe.all_steps
    return schedule(step, steps, round(recipe.warmup * steps), recipe.final_rate)
