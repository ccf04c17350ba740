"""Measures the figures of parity.json, which compare a bundle with PyTorch; accuracy_gate.py judges them.

There are three measurements. Random rows of all lengths, alone and padded in a batch, show errors of the export.
PyTorch always gets such a row alone, so errors of padding show too. Texts without labels show how often choices or
scores differ. Labeled examples show the cost, with its standard error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle
from models.checkpoint import Checkpoint
from models.onnx_runtime import Precision
from models.predictor import Predictor
from models.reference import Reference
from models.row import Row
from models.session import Session
from models.task import HeadSpec, Logits, TaskName
from models.tokenizer import Tokenizer
from training.evaluation.evaluate import score
from training.evaluation.metrics import Scores, headline
from training.evaluation.multi_label import truth_of
from training.evaluation.predictors import CheckpointPredictor, input_of
from training.evaluation.report import report_of
from training.evaluation.report_figures import Report
from training.finetuning.calibration import cross_fitted_error, decisions
from training.parity.evidence import TEXTS, Data, Evidence, collect, made_inputs
from training.parity.logit_comparison import Figures, compare
from training.parity.recorded_predictor import Recorded
from training.parity.reference_figures import reference_figures
from training.parity.run_files import RunFiles
from training.parity.serving_session import graph_hashes, session_figures
from training.text.problem_types import as_problem, problem_for

REFERENCE = "PyTorch, fp32, each row alone"
MASKED = 0.15  # share of masks among the tokens of a probe, for fill-mask
MAX_READ = 8  # maximum masks of a probe
GROUPS = 20
"""Parts of the examples that are left out in turn, for the error of a figure (jackknife)."""


def measure_parity(
    checkpoint: Checkpoint,
    bundle: Bundle,
    data: Data,
    limit: int | None = None,
    run: RunFiles | None = None,
    reference: str = REFERENCE,
    reports: dict[str, Report] | None = None,
    references: dict[str, Reference] | None = None,
) -> Figures:
    """Return parity.json: each precision and head of `bundle`, against `checkpoint`.

    Heads are measured on `data`, otherwise on the files of `run`, otherwise on generated texts; `limit` is the maximum
    of examples per head. For each head with validation data, `reports` gets its report and `references` its reference
    figures, both in the first precision, which is served.
    """
    batches = list(probes(checkpoint.tokenizer, bundle.manifest.encoder.max_length))
    rows = [row for batch in batches for row in batch]
    expected = reference_logits(checkpoint, rows)
    specs = {name: head.spec for name, head in checkpoint.heads.items()}
    evidence = collect(specs, data, limit, run)
    theirs = Recorded(CheckpointPredictor.of(checkpoint))
    precisions = {}
    for precision in bundle.manifest.encoder.files:
        probed = _probe_heads(bundle, precision, specs, batches, expected)
        predictor = Predictor(bundle, precision=precision)
        ours = Recorded(predictor)
        heads = {
            name: probed[name] | measure_head(name, theirs, ours, evidence[name], precision != "fp32") for name in specs
        }
        precisions[precision] = {"heads": heads}
        if reports is not None and not reports:
            reports |= _reports(ours, evidence, heads)
        if references is not None and not references:
            references |= reference_figures(predictor, evidence)
    described = {"rows": len(rows), "lengths": sorted({len(row.input_ids) for row in rows})}
    return {
        "reference": reference,
        "session": session_figures(),
        "graphs": graph_hashes(bundle),
        "probes": described,
        "precisions": precisions,
    }


def measure_head(
    name: str, theirs: Recorded, ours: Recorded, evidence: Sequence[Evidence], on_texts: bool = True
) -> Figures:
    """Return the figures of a head on its evidence (`validation`, `training`), and on its own or generated texts.

    Without `on_texts` the texts are left out: fp32 is judged only by random rows, which must agree to the last digits.
    """
    figures: Figures = {one.kind: _on_examples(name, theirs, ours, one) for one in evidence}
    if not on_texts:
        return figures
    figures["texts"] = _on_texts(name, theirs, ours, evidence)
    for one in evidence:
        if theirs.head(name).task == "fill-mask":  # masks depend on the index of a document: leave no part out
            figures[one.kind]["error"] = _error_by_choices(figures["texts"], figures[one.kind]["scores"])
    return figures


def _reports(ours: Recorded, evidence: Mapping[str, Sequence[Evidence]], figures: Figures) -> dict[str, Report]:
    """Return the report of each head on its validation data, from recorded answers."""
    return {
        name: replace(report_of(ours, name, one.examples), scores=figures[name]["validation"]["scores"])
        for name, found in evidence.items()
        for one in found
        if one.kind == "validation"
    }


# ---- random rows ---------------------------------------------------------------------------------------------------


def probes(tokenizer: Tokenizer, max_length: int, seed: int = 0) -> Iterator[list[Row]]:
    """Yield batches of random rows: for each length one row alone, and one padded in a batch."""
    generator = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special_ids))
    for length in sorted({length for length in (3, 4, 17, 64, 128) if length < max_length} | {max_length}):
        for lengths in ([length], [max(3, length // 2), length, 3]):
            yield [_probe(generator, ordinary, tokenizer, each) for each in lengths]


@torch.inference_mode()
def reference_logits(checkpoint: Checkpoint, rows: Sequence[Row]) -> dict[str, list[Logits]]:
    """Return PyTorch's logits for the positions of each row, each row run alone."""
    checkpoint.encoder.eval()
    logits: dict[str, list[Logits]] = {name: [] for name in checkpoint.heads}
    for row in rows:
        vectors = checkpoint.encoder(torch.tensor([row.input_ids]), torch.tensor([row.token_type_ids]))[0]
        for name, head in checkpoint.heads.items():
            answers = head.module.eval()(vectors[positions_of(head.spec.task, row)])
            logits[name].append(answers[:, : head.spec.width(checkpoint.tokenizer.vocab_size)].numpy())
    return logits


def _probe_heads(
    bundle: Bundle,
    precision: Precision,
    specs: Mapping[str, HeadSpec],
    batches: Sequence[Sequence[Row]],
    expected: Mapping[str, Sequence[Logits]],
) -> dict[str, Figures]:
    session = Session(bundle, precision=precision)
    figures = {}
    for name, spec in specs.items():
        found = [logits for batch in batches for logits in session.run(_items(name, spec.task, batch))]
        figures[name] = compare(spec, expected[name], found)
    return figures


def _probe(generator: np.random.Generator, ordinary: Any, tokenizer: Tokenizer, length: int) -> Row:
    """Draw a row whose positions are its masks; the second half is the second segment, as in a pair."""
    ids = generator.choice(ordinary, length)
    ids[0], ids[-1] = tokenizer.cls_id, tokenizer.sep_id
    masks = 1 + generator.permutation(length - 2)[: min(MAX_READ, max(1, round(MASKED * length)))]
    ids[masks] = tokenizer.mask_id
    segments = (np.arange(length) > length // 2) * tokenizer.layout.segment
    return Row(ids.tolist(), segments.tolist(), sorted(masks.tolist()))


def _items(name: str, task: TaskName, rows: Sequence[Row]) -> list[tuple[str, Row]]:
    return [(name, Row(row.input_ids, row.token_type_ids, positions_of(task, row))) for row in rows]


def positions_of(task: TaskName, row: Row) -> list[int]:
    """Return the columns of a probe that a head of a task reads."""
    if task == "fill-mask":
        return row.positions
    return [0] if task in ("classify", "pair") else list(range(len(row.input_ids)))


# ---- texts ---------------------------------------------------------------------------------------------------------


def _on_texts(name: str, theirs: Recorded, ours: Recorded, evidence: Sequence[Evidence]) -> Figures:
    """Compare logits on some of the recorded inputs, or on generated texts if there are too few."""
    spec = theirs.head(name)
    asked = theirs.inputs(name) if any(one.is_enough for one in evidence) else []
    inputs = asked or made_inputs(spec.task, theirs.tokenizer)
    spread = np.linspace(0, len(inputs) - 1, min(len(inputs), TEXTS[spec.task])).round().astype(int)
    chosen = [inputs[place] for place in spread]
    source = " + ".join(one.name for one in evidence) if asked else "made of the vocabulary"
    width = spec.width(theirs.tokenizer.vocab_size)  # an encoder may have ids that its tokenizer never produces
    expected = [logits[:, :width] for logits in theirs.logits(name, chosen)]
    found = ours.logits(name, chosen)
    return {"source": source, "texts": len(chosen), **compare(spec, expected, found)}


# ---- labeled examples ---------------------------------------------------------------------------------------------


def _on_examples(name: str, theirs: Recorded, ours: Recorded, evidence: Evidence) -> Figures:
    expected, found = (score(each, name, evidence.examples) for each in (theirs, ours))
    if evidence.fitted and "calibration_error" in found:
        found = _cross_fitted(name, ours, evidence, found)
    metric = headline(expected)
    return {
        **evidence.describe(),
        "metric": metric,
        "reference": expected[metric],
        "value": found[metric],
        "loss": 100 * (expected[metric] - found[metric]),
        "error": _jackknife(name, theirs, ours, evidence, metric),
        "scores": found,
    }


def _cross_fitted(name: str, predictor: Recorded, evidence: Evidence, scores: Scores) -> Scores:
    """Replace a calibration error by one with temperatures that were fitted on other examples.

    If a text is read in windows, its first window counts, as in fitting temperatures.
    """
    spec = predictor.head(name)
    examples: list[Any] = as_problem(evidence.examples, problem_for(spec, evidence.examples))
    logits: Any = np.stack([rows[0] for rows in predictor.logits(name, [input_of(example) for example in examples])])
    if isinstance(examples[0].label, tuple):
        logits, gold = decisions(logits, truth_of([example.label for example in examples], spec.labels))
    else:
        gold = np.array([spec.labels.index(example.label) for example in examples])
    error = cross_fitted_error(logits, gold)
    return scores if error is None else scores | {"calibration_error": error}


def _jackknife(name: str, theirs: Recorded, ours: Recorded, evidence: Evidence, metric: str) -> float | None:
    """Return the standard error of a loss in points, by leaving out each of GROUPS random parts of the examples."""
    count = len(evidence.examples)
    if count < 2 or theirs.head(name).task == "fill-mask":
        return None
    groups = np.random.default_rng(0).permutation(np.arange(count) % min(GROUPS, count))
    losses = []
    for number in range(groups.max() + 1):
        rest = [one for one, group in zip(evidence.examples, groups, strict=True) if group != number]
        expected, found = (score(each, name, rest) for each in (theirs, ours))
        losses.append(100 * (expected[metric] - found[metric]))
    return float(np.sqrt((len(losses) - 1) * np.var(losses)))


def _error_by_choices(texts: Figures, scores: Scores) -> float:
    """Return a bound of the standard error in points: each different choice loses or gains one answer."""
    return float(100 * np.sqrt((1 - texts["equal_argmax"]) / scores["masked_tokens"]))
