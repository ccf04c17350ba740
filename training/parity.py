"""What a bundle answers, beside what PyTorch answers: the figures of parity.json, and the gate of an export.

Probes are random rows, over lengths from the shortest to the longest, alone and padded in a batch; PyTorch always gets
a row alone, so that an error of padding shows too. `expected_loss` needs no labels: where the bundle chooses another
label than PyTorch, it is what that choice costs by PyTorch's own probabilities, in points.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.bundle import Bundle, sha256_of
from models.checkpoint import Checkpoint
from models.row import Row
from models.runtime import Precision
from models.session import Session
from models.task import Logits, TaskName, softmax
from models.tokenizer import Tokenizer
from training.errors import ExportError
from training.evaluate import evaluate
from training.metrics import Scores, headline
from training.predictors import BundlePredictor, CheckpointPredictor

REFERENCE = "PyTorch, fp32, each row alone"
MASKED = 0.15  # of a probe's tokens, so that fill-mask has something to read
MOST_READ = 8  # masks of a probe
FP32_TOLERANCE = 1e-4  # relative to the largest logit, or absolute where that is below 1

Figures = dict[str, Any]


def measure_parity(
    checkpoint: Checkpoint, bundle: Bundle, data: Mapping[str, Path], limit: int | None = None
) -> Figures:
    """Return parity.json: each precision and head of `bundle`, against `checkpoint` and on the data of each head."""
    batches = list(probes(checkpoint.tokenizer, bundle.manifest.encoder.max_length))
    rows = [row for batch in batches for row in batch]
    expected = reference_logits(checkpoint, rows)
    wanted = {name: evaluate(CheckpointPredictor.of(checkpoint), name, [path], limit) for name, path in data.items()}
    precisions = {}
    for precision in bundle.manifest.encoder.files:
        heads = {}
        session = Session(bundle, precision=precision)
        for name, head in checkpoint.heads.items():
            found = [logits for batch in batches for logits in session.run(_items(name, head.spec.task, batch))]
            heads[name] = compare(head.spec.task, expected[name], found)
        predictor = BundlePredictor(bundle, precision)
        for name, path in data.items():
            heads[name]["validation"] = _validation(path, wanted[name], evaluate(predictor, name, [path], limit))
        precisions[precision] = {"heads": heads}
    described = {"rows": len(rows), "lengths": sorted({len(row.input_ids) for row in rows})}
    return {"reference": REFERENCE, "probes": described, "precisions": precisions}


def check_parity(figures: Figures, budget: float) -> None:
    """Raise ExportError if a head differs more than its precision may: fp32 by rounding, others by `budget` points."""
    for precision, of_precision in figures["precisions"].items():
        for name, head in of_precision["heads"].items():
            if precision == "fp32":
                _check_exact(name, head)
            else:
                _check_budget(name, precision, head, budget)


def probes(tokenizer: Tokenizer, max_length: int, seed: int = 0) -> Iterator[list[Row]]:
    """Yield batches of random rows: of each length one alone, and one padded beside shorter ones."""
    generator = np.random.default_rng(seed)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special_ids))
    for length in sorted({length for length in (3, 4, 17, 64, 128) if length < max_length} | {max_length}):
        for lengths in ([length], [max(3, length // 2), length, 3]):
            yield [_probe(generator, ordinary, tokenizer, each) for each in lengths]


@torch.inference_mode()
def reference_logits(checkpoint: Checkpoint, rows: Sequence[Row]) -> dict[str, list[Logits]]:
    """Return what PyTorch's heads give for the positions of each row, each row run alone."""
    checkpoint.encoder.eval()
    logits: dict[str, list[Logits]] = {name: [] for name in checkpoint.heads}
    for row in rows:
        vectors = checkpoint.encoder(torch.tensor([row.input_ids]), torch.tensor([row.token_type_ids]))[0]
        for name, head in checkpoint.heads.items():
            answers = head.module.eval()(vectors[_positions(head.spec.task, row)])
            logits[name].append(answers[:, : head.spec.width(checkpoint.tokenizer.vocab_size)].numpy())
    return logits


def compare(task: TaskName, expected: Sequence[Logits], found: Sequence[Logits]) -> Figures:
    """Return the largest difference, the share of equal choices, and what the unequal ones cost."""
    differences = [np.abs(mine - theirs).max() for mine, theirs in zip(found, expected, strict=True)]
    wanted = [choice for logits in expected for choice in _choices(task, logits)]
    chosen = [int(np.argmax(choice)) for logits in found for choice in _choices(task, logits)]
    regrets = [_regret(logits, index) for logits, index in zip(wanted, chosen, strict=True)]
    equal = [index == int(np.argmax(logits)) for logits, index in zip(wanted, chosen, strict=True)]
    return {
        "max_difference": float(max(differences)),
        "largest_logit": float(max(np.abs(logits).max() for logits in expected)),
        "equal_argmax": float(np.mean(equal)),
        "expected_loss": 100 * float(np.mean(regrets)),
        "choices": len(equal),
    }


def _probe(generator: np.random.Generator, ordinary: Any, tokenizer: Tokenizer, length: int) -> Row:
    """Draw a row whose positions are its masks; the second half is segment 1, as in a pair."""
    ids = generator.choice(ordinary, length)
    ids[0], ids[-1] = tokenizer.cls_id, tokenizer.sep_id
    masks = 1 + generator.permutation(length - 2)[: min(MOST_READ, max(1, round(MASKED * length)))]
    ids[masks] = tokenizer.mask_id
    segments = (np.arange(length) > length // 2).astype(int)
    return Row(ids.tolist(), segments.tolist(), sorted(masks.tolist()))


def _items(name: str, task: TaskName, rows: Sequence[Row]) -> list[tuple[str, Row]]:
    return [(name, Row(row.input_ids, row.token_type_ids, _positions(task, row))) for row in rows]


def _positions(task: TaskName, row: Row) -> list[int]:
    if task == "fill-mask":
        return row.positions
    return [0] if task in ("classify", "pair") else list(range(len(row.input_ids)))


def _choices(task: TaskName, logits: Logits) -> Logits:
    """Return the alternatives that compete, one choice a row: labels of a position, or in qa positions of a row."""
    return logits.T if task == "qa" else logits


def _regret(logits: Logits, chosen: int) -> float:
    scores = softmax(logits, 1.0)
    return float(scores.max() - scores[chosen])


def _validation(path: Path, expected: Scores, found: Scores) -> Figures:
    metric = headline(expected)
    return {
        "file": path.name,
        "sha256": sha256_of(path),
        "metric": metric,
        "reference": expected[metric],
        "value": found[metric],
        "loss": 100 * (expected[metric] - found[metric]),
        "scores": found,
    }


def _check_exact(name: str, head: Figures) -> None:
    tolerance = FP32_TOLERANCE * max(1.0, head["largest_logit"])
    if not head["max_difference"] <= tolerance:
        raise ExportError(
            f"head {name!r} in fp32 differs from PyTorch by {head['max_difference']:.2g}, expected at most "
            f"{tolerance:.2g}; report this as a defect of the export"
        )


def _check_budget(name: str, precision: Precision, head: Figures, budget: float) -> None:
    measured = head.get("validation")
    loss = measured["loss"] if measured else head["expected_loss"]
    if not loss <= budget:
        by = f"{measured['metric']} on {measured['file']}" if measured else "its expected loss on random rows"
        remedy = "" if measured else f"measure it on data with --data {name}=FILE, "
        raise ExportError(
            f"head {name!r} loses {loss:.2f} points in {precision} by {by}, expected at most {budget:g}; "
            f"{remedy}raise --budget, or export with --precision fp32"
        )
