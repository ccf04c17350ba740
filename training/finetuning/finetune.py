"""Finetuning: one head alone, or several heads on one encoder.

    python -m training finetune training/recipes/starter.toml --out RUN --set base=CHECKPOINT --set data=DIR

Each step is a batch of one head, sampled in proportion to its `share`, under one optimizer. A `corpus` keeps the
pretraining heads in the mixture, because an encoder that learns other tasks forgets them. The same command resumes the
run.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from models.checkpoint import Checkpoint, Head, read_checkpoint
from models.heads import build_head
from models.task import HeadSpec, ProblemType, Trained
from training.errors import DataError, RecipeError, TrainingError
from training.evaluation.evaluate import check_labels
from training.evaluation.evaluate import score as evaluate_head
from training.evaluation.predictors import CheckpointPredictor
from training.evaluation.report import REPORTS, report_of, write_report
from training.finetuning.calibration import Calibration, decisions
from training.finetuning.early_stopping import Best
from training.finetuning.finetune_recipe import DEFAULTS, FinetuneRecipe, HeadRecipe
from training.finetuning.first_bias import start_at_frequencies
from training.finetuning.label_thresholds import fit_thresholds
from training.finetuning.loop import Loop
from training.finetuning.no_answer_threshold import MIN_EXAMPLES, fit_no_answer
from training.finetuning.probe import probe
from training.finetuning.targets import targets
from training.finetuning.task_mixture import build_sources, choose, encode_sets, in_steps
from training.finetuning.trends import ending, trends
from training.finetuning.unanswerable_questions import unanswerable
from training.pretraining.initial_weights import start
from training.pretraining.pretrain_recipe import SPECS
from training.pretraining.validation import evaluate as evaluate_pretraining
from training.run.atomic_files import alone
from training.run.distributed import Processes
from training.run.optimizer import build_optimizer
from training.run.precision import check_precision
from training.run.progress import tell
from training.run.run_directory import Run
from training.run.start_from import note_length, read_base
from training.text.data_files import read_data
from training.text.examples import Example, labels_of
from training.text.file_formats import files_in
from training.text.problem_types import as_problem, problem_of

MIN_LENGTH = 8
"""Minimum tokens of a row."""


def finetune(recipe: FinetuneRecipe, out: Path) -> Checkpoint:
    """Run or resume the recipe; the finished checkpoint, with its measured heads, is in `out`."""
    processes = Processes()
    if processes.count > 1:
        raise TrainingError("finetune runs in one process; start it without torchrun")
    with alone(out):
        return train(recipe, out, processes)


def train(recipe: FinetuneRecipe, out: Path, processes: Processes) -> Checkpoint:
    """Train, from reading the data to measuring the heads."""
    run = Run(out, recipe, processes, inputs(recipe))
    if run.finished:
        return read_checkpoint(out)
    torch.manual_seed(recipe.seed)
    run.set_threads(recipe.threads)
    check_precision(recipe.precision, processes.device.type)

    # ---- model and data
    sets = {name: training_set(recipe, head) for name, head in recipe.heads.items()}
    checkpoint = prepare(recipe, sets)
    validation = {
        name: as_problem(read_files(recipe, head, head.validation), checkpoint.heads[name].spec.problem_type)
        for name, head in recipe.heads.items()
    }
    for name, examples in validation.items():
        check_labels(name, checkpoint.heads[name].spec.labels, examples)
    run.check_inputs()
    encoded = encode_sets(recipe, checkpoint, sets)
    recipe = in_steps(recipe, encoded)
    tell_turns(recipe)
    if not recipe.freeze_encoder:
        note_length(checkpoint, max(head.max_length for head in recipe.heads.values()))
    predictor = CheckpointPredictor.of(checkpoint)

    if recipe.probe and not run.saved():
        for name in sorted(checkpoint.fresh & recipe.heads.keys()):
            probe(checkpoint, name, encoded[name], recipe.seed)

    # ---- loop
    optimizer = learning(recipe, checkpoint, processes.device)
    best = Best(run.out / "best", recipe.patience)
    state = run.resume(checkpoint, optimizer) or {"step": 0, "best": best.state()}
    best.load(state["best"])
    sources = build_sources(recipe, checkpoint, encoded, state["step"])
    evaluate = partial(validate, recipe, checkpoint, predictor, validation, recipe.evaluate_examples)
    done = Loop(recipe, run, checkpoint, optimizer, sources, best, evaluate).go_on(state["step"])

    # ---- the finished heads, calibrated and measured
    last = {} if best.stale else evaluate()  # a stale run was measured after its last step
    if recipe.patience and not best.stale:
        best.offer(last, checkpoint, done)
    best.restore(checkpoint)
    calibrations: dict[str, Calibration] = {}
    for name in recipe.heads:
        head = checkpoint.heads[name]
        if head.spec.task in ("classify", "pair"):
            calibrations[name] = calibrated(predictor, name, validation[name])
            spec = replace(head.spec, temperature=calibrations[name].temperature)
        else:
            spec = fitted(predictor, name, head.spec, recipe, validation[name])
        checkpoint.heads[name] = Head(spec, head.module)
    predictor = CheckpointPredictor.of(checkpoint)
    figures = reported(predictor, validation, calibrations, run.out / REPORTS)
    if recipe.corpus:
        figures |= evaluate_pretraining(checkpoint, recipe.pretraining, recipe.pretraining.max_length)
    run.log_figures(done, as_curves(figures, last, calibrations))
    for remark in (*ending(recipe, best, done), *trends(run.metrics, recipe)):
        tell(remark)
    for name in (*recipe.heads, *(SPECS if recipe.corpus else ())):
        head = checkpoint.heads[name]
        rows: dict[str, Any] = {"training_examples": float(len(sets[name]))} if name in sets else {}
        thresholds = fit_thresholds(predictor, name, validation.get(name, []))
        checkpoint.heads[name] = Head(head.spec, head.module, rows | figures.get(name, {}) | thresholds)
    run.finish(checkpoint)
    return checkpoint


def as_curves(
    figures: dict[str, dict[str, float]], last: dict[str, dict[str, float]], calibrated: Collection[str]
) -> dict[str, dict[str, float]]:
    """Return the final figures for the curves; a calibrated loss gives way to that of `last`, as measured before.

    The temperature changes the scale of a loss, so the last point of a curve would seem to be a rise or a fall.
    """
    curves = dict(figures)
    for name in figures.keys() & calibrated:
        kept = {key: value for key, value in figures[name].items() if key != "loss"}
        curves[name] = kept | {key: value for key, value in last.get(name, {}).items() if key == "loss"}
    return curves


def learning(recipe: FinetuneRecipe, checkpoint: Checkpoint, device: torch.device) -> torch.optim.AdamW:
    """Move all modules to the device, and return the optimizer of the weights that the recipe trains."""
    for module in (checkpoint.encoder, *(head.module for head in checkpoint.heads.values())):
        module.to(device).train()
    checkpoint.encoder.requires_grad_(not recipe.freeze_encoder)
    if recipe.freeze_embeddings:
        checkpoint.encoder.embeddings.word.requires_grad_(False)
    return build_optimizer(checkpoint, recipe.rate, recipe.weight_decay)


def tell_turns(recipe: FinetuneRecipe) -> None:
    """Warn of heads that get no step, before hours are spent: they would be served untrained."""
    drawn = {choose(recipe, step) for step in range(recipe.steps)}
    for name in recipe.heads.keys() - drawn:
        tell(
            f"heads.{name} gets none of the {recipe.steps} steps by its share, so it stays untrained; raise steps, or "
            f"heads.{name}.share"
        )


# ---- heads and data ------------------------------------------------------------------------------------------------


def inputs(recipe: FinetuneRecipe) -> Iterator[Path]:
    """Yield the inputs of a run: base, corpus, and the files of its heads."""
    yield from map(Path, filter(None, (recipe.base, recipe.corpus)))
    for head in recipe.heads.values():
        files = [Path(recipe.data) / file for file in (*head.train, *head.validation)]
        yield from chain.from_iterable(files_in(file, head.task) for file in files)


def read_files(recipe: FinetuneRecipe, head: HeadRecipe, files: Sequence[str]) -> list[Example]:
    return read_data([Path(recipe.data) / file for file in files], head.task, head.columns, head.skip_broken)


def training_set(recipe: FinetuneRecipe, head: HeadRecipe) -> list[Example]:
    """Return the examples that a head learns from, including generated ones."""
    found: Any = read_files(recipe, head, head.train)
    if head.task == "qa" and head.unanswerable:
        found += unanswerable(found, head.unanswerable, np.random.default_rng(recipe.seed))
    return list(found)


def prepare(recipe: FinetuneRecipe, sets: dict[str, list[Example]]) -> Checkpoint:
    """Return the base with the heads of the recipe, taken from the base or fresh, and with the heads that stay.

    The labels in `sets` get the form that each head learns.
    """
    checkpoint = start(recipe.pretraining) if recipe.corpus else read_base(Path(recipe.base))
    longest = checkpoint.config.max_position_embeddings
    known, heads = checkpoint.heads, dict[str, Head]()
    for name, head in recipe.heads.items():
        if not MIN_LENGTH <= head.max_length <= longest:
            raise RecipeError(
                f"heads.{name}.max_length is {head.max_length}, expected {MIN_LENGTH} to {longest}, the positions of "
                "the base; change it"
            )
        if not sets[name]:
            raise RecipeError(f"heads.{name}.train names no file, expected at least one; add it")
        problem = head.problem_type or problem_of(sets[name])
        sets[name] = as_problem(sets[name], problem)
        alone = [head.columns.get("label", "score")]  # the only label of a regression
        found = head.labels or (alone if problem == "regression" else labels_of(sets[name]))
        goes_on = name in known and goes_on_from(known[name].spec, head, found, problem)
        fewest = 2 if problem == "single_label_classification" else 1
        if head.task != "qa" and len(known[name].spec.labels if goes_on else found) < fewest:
            raise DataError(
                f"heads.{name}: {'labels' if head.labels else ', '.join(head.train)} has only the label "
                f"{', '.join(found)}, expected two or more; add another"
            )
        heads[name] = grown(known[name], head, problem) if goes_on else fresh_head(head, found, checkpoint, problem)
        if not goes_on:
            checkpoint.fresh.add(name)
            labels: list[Any] = [getattr(example, "label", None) for example in sets[name]]
            start_at_frequencies(name, heads[name].module, heads[name].spec, labels)
        if name in known and not goes_on:
            before = known[name].spec
            other = f"the head of the base is for {before.task} with {', '.join(before.labels)}"
            tell(f"heads.{name} is trained from new weights: {other}")
    kept = {name: known[name] for name in known if recipe.freeze_encoder or (recipe.corpus and name in SPECS)}
    checkpoint.heads = kept | heads if recipe.freeze_encoder else heads | kept
    return checkpoint


def goes_on_from(known: HeadSpec, recipe: HeadRecipe, labels: list[str], problem: ProblemType) -> bool:
    """Tell whether a head of the base can continue with these labels, in its order; some of its labels may be missing.

    The single label of a cross-encoder can continue as a label that is true or false: its sigmoid means that.
    """
    if known.task != recipe.task or known.usual_function != replace(known, problem_type=problem).usual_function:
        return False
    if problem == "regression" and not recipe.labels:
        return len(known.labels) == 1
    return known.labels == labels if recipe.labels else set(labels) <= set(known.labels)


def grown(known: Head, recipe: HeadRecipe, problem: ProblemType) -> Head:
    return Head(spec_of(recipe, known.spec.labels, known.spec.defaults, problem), known.module)


def fresh_head(recipe: HeadRecipe, labels: list[str], checkpoint: Checkpoint, problem: ProblemType) -> Head:
    spec = spec_of(recipe, labels, {}, problem)
    return Head(spec, build_head(recipe.task, len(labels), checkpoint.config, checkpoint.encoder.embeddings.word))


def spec_of(recipe: HeadRecipe, labels: list[str], defaults: dict[str, Any], problem: ProblemType) -> HeadSpec:
    """Return the specification of a head that learns by `recipe`, whose defaults override others.

    A multi-label head gives a text every label of any of its windows.
    """
    windows = {"window_scores": "maximum"} if problem == "multi_label_classification" else {}
    defaults = DEFAULTS.get(recipe.task, {}) | windows | defaults | recipe.defaults
    if recipe.task == "tag" and "pieces" not in recipe.defaults:
        defaults |= DEFAULTS["tag"]  # a head that read only first pieces learns all pieces from now on
    sentences: Literal["one", "several"] = "several" if recipe.joined else "one"
    trained = Trained(max_length=recipe.max_length, sentences=sentences if recipe.task == "tag" else None)
    return HeadSpec(recipe.task, labels, defaults, trained=trained, problem_type=problem)


# ---- validation ----------------------------------------------------------------------------------------------------


def validate(
    recipe: FinetuneRecipe,
    checkpoint: Checkpoint,
    predictor: CheckpointPredictor,
    validation: dict[str, list[Example]],
    limit: int,
) -> dict[str, dict[str, float]]:
    """Return the figures of every head, each on `limit` evenly spread examples."""
    figures = {}
    for name, examples in validation.items():
        every = max(1, len(examples) // limit)
        if examples:
            figures[name] = evaluate_head(predictor, name, examples[::every])
    if recipe.corpus:
        pretraining = recipe.pretraining
        figures |= evaluate_pretraining(checkpoint, pretraining, pretraining.max_length)
    return figures


def reported(
    predictor: CheckpointPredictor,
    validation: dict[str, list[Example]],
    calibrations: dict[str, Calibration],
    directory: Path,
) -> dict[str, dict[str, float]]:
    """Return the figures of the finished heads; write the report of each below `directory`, and print it.

    Calibration errors come from examples that the temperature was not fitted on.
    """
    figures = {}
    for name, examples in validation.items():
        if not examples:
            continue
        report = report_of(predictor, name, examples)
        if name in calibrations and (error := calibrations[name].error) is not None:
            report.scores["calibration_error"] = error
        write_report(report, directory / name)
        tell("\n".join(["", *report.lines(), "", f"report: {directory / name}"]))
        figures[name] = report.scores
    return figures


def fitted(
    predictor: CheckpointPredictor, name: str, spec: HeadSpec, recipe: FinetuneRecipe, examples: Sequence[Example]
) -> HeadSpec:
    """Return a head with its no-answer threshold, fitted on its validation data, if it needs one."""
    head = recipe.heads[name]
    if spec.task != "qa" or "no_answer_threshold" in head.defaults:
        return spec
    return replace(spec, defaults=spec.defaults | no_answer(predictor, name, head, examples, recipe.seed))


def no_answer(
    predictor: CheckpointPredictor, name: str, head: HeadRecipe, examples: Sequence[Any], seed: int
) -> dict[str, float]:
    """Return the default no-answer threshold; if all validation questions are answerable, others are generated."""
    asked = list(examples)
    if head.unanswerable and all(example.answers for example in asked):
        asked += unanswerable(asked, head.unanswerable, np.random.default_rng(seed))
    threshold = fit_no_answer(predictor, name, asked)
    if threshold is None:
        tell(
            f"heads.{name}: no_answer_threshold was not fitted, because validation has fewer than {MIN_EXAMPLES} "
            "questions with an answer, or without one; add some, or set unanswerable"
        )
        return {}
    return {"no_answer_threshold": round(threshold, 4)}


def calibrated(predictor: CheckpointPredictor, name: str, examples: Sequence[Example]) -> Calibration:
    """Calibrate a classifier on its validation data (Guo et al., 2017), with rows as they are served.

    A number has no probability, so a regression keeps the temperature 1. Multi-label heads have one temperature for all
    labels, fitted on their decisions between yes and no.
    """
    spec = predictor.head(name)
    if spec.problem_type == "regression":
        return Calibration(1.0, len(examples), None)
    encoded = targets(examples, spec, predictor.tokenizer, spec.trained.max_length or predictor.max_length)
    logits = [
        row for i in range(0, len(encoded), 32) for row in predictor.run(name, [t.row for t in encoded[i : i + 32]])
    ]
    shaped = np.array(logits).reshape(len(encoded), len(spec.labels))
    if spec.problem_type == "multi_label_classification":
        truth = np.array([target.labels for target in encoded], bool).reshape(shaped.shape)
        found = Calibration.of(*decisions(shaped, truth))
    else:
        found = Calibration.of(shaped, np.array([target.labels[0] for target in encoded], np.int64))
    if found.remark:
        tell(f"heads.{name}: {found.remark}")
    return found
