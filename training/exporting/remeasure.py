"""Measure the parity of a bundle again, with the session that serves it; graphs and tokenizer keep their bytes.

    python -m training parity BUNDLE [--reference CHECKPOINT] [--data HEAD=FILE]... [--limit N] [--card FILE]

This is needed when graphs, kernels or ONNX Runtime have changed. parity.json, the figures in bundle.json and the table
in README.md are written together. The text above the table stays, unless --card names another.
"""

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from models.bundle import Bundle, read_bundle, seal, staged
from models.checkpoint import Checkpoint, Head, read_checkpoint
from models.manifest import CARD, PARITY
from models.reference import Reference
from training.errors import ExportError
from training.evaluation.report_figures import Report
from training.exporting.export import data_of, pair, report, with_metrics, with_references, write_reports
from training.exporting.model_card import model_card, said_in
from training.parity.accuracy_gate import check_parity, remarks
from training.parity.evidence import Data, check_heads
from training.parity.measure import REFERENCE, measure_parity
from training.parity.run_files import RunFiles
from training.run.option_types import points, positive
from training.run.progress import tell
from training.run.start_from import unpack

OWN_WEIGHTS = "with the weights of the bundle"


@dataclass(frozen=True)
class ParityOptions:
    """The reference and the data for measuring a bundle."""

    reference: Path | None = None
    """The checkpoint that it was made from; by default its own weights, as rounded by int8."""
    data: Data = field(default_factory=dict)
    limit: int | None = None
    budget: float = 0.5
    card: Path | None = None


def remeasure(directory: Path, options: ParityOptions) -> Bundle:
    """Measure and write; raise ExportError, and leave the bundle unchanged, if a head exceeds the budget."""
    bundle = read_bundle(directory)
    check_heads(options.data, bundle.manifest.heads)
    checkpoint, reference = _reference(bundle, options.reference)
    run = RunFiles.find(options.reference) if options.reference else None
    reports: dict[str, Report] = {}
    met: dict[str, Reference] = {}
    figures = measure_parity(checkpoint, bundle, options.data, options.limit, run, reference, reports, met)
    for remark in remarks(figures):
        tell(remark)
    check_parity(figures, options.budget)
    manifest = with_references(with_metrics(bundle.manifest, figures), met)
    text = said_in(options.card or directory / CARD)
    with staged(directory, replace=True) as staging:
        shutil.copytree(directory, staging, dirs_exist_ok=True)
        (staging / PARITY).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf8")
        write_reports(bundle.manifest, reports, staging)
        (staging / CARD).write_text(model_card(manifest, figures, staging, text), encoding="utf8")
        seal(staging, manifest)
        read_bundle(staging)
    return read_bundle(directory)


def _reference(bundle: Bundle, directory: Path | None) -> tuple[Checkpoint, str]:
    """Return a checkpoint with the heads and settings of the bundle, and its name for parity.json."""
    if directory is None:
        rounded = "" if "fp32" in bundle.manifest.encoder.files else ", rounded as it has them"
        return unpack(bundle), f"{REFERENCE}, {OWN_WEIGHTS}{rounded}"
    checkpoint = read_checkpoint(directory)
    for name, entry in bundle.manifest.heads.items():
        found = checkpoint.heads.get(name)
        mine = entry.task, entry.labels, entry.problem_type
        if found is None or (found.spec.task, found.spec.labels, found.spec.problem_type) != mine:
            raise ExportError(
                f"{directory} has no {entry.task} head {name!r} with the labels of {bundle.directory}, expected the "
                "checkpoint that the bundle was made from; correct --reference, or leave it out"
            )
        checkpoint.heads[name] = Head(entry.spec, found.module, found.metrics)
    checkpoint.heads = {name: checkpoint.heads[name] for name in bundle.manifest.heads}
    return checkpoint, REFERENCE


# ---- command line --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `parity_command` reads."""
    add = parser.add_argument
    add("bundle", type=Path, metavar="BUNDLE", help="directory with bundle.json")
    add("--reference", type=Path, metavar="CHECKPOINT", help="what it was made from; default: its own weights")
    add("--data", type=pair, action="append", default=[], metavar="HEAD=FILE", help="validation data; repeatable")
    add("--limit", type=positive, metavar="N", help="measure each head with N random examples")
    add("--budget", type=points, default=0.5, metavar="POINTS", help="points that int8 and fp16 may lose; default: 0.5")
    add("--card", type=Path, metavar="FILE", help="text for README.md, above the figures; default: the old one")


def parity_command(arguments: argparse.Namespace) -> None:
    """Measure as the command line says, and print the outcome."""
    options = ParityOptions(
        arguments.reference, data_of(arguments.data), arguments.limit, arguments.budget, arguments.card
    )
    bundle = remeasure(arguments.bundle, options)
    report(bundle)
    sys.stdout.write(f"{bundle.directory}: {PARITY}, {CARD} and the figures of bundle.json are updated\n")
