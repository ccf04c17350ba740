"""Turns a checkpoint into a bundle: ONNX graphs, tokenizer, model card, and the figures of its parity.

    python -m training export CHECKPOINT --out BUNDLE [--precision int8,fp16,fp32] [--data HEAD=FILE]... [--base BUNDLE]
    python -m training export BUNDLE --out BUNDLE --precision fp16     # the same heads, for a GPU

int8 and fp16 are exported only if no head loses more than --budget points, beyond what chance explains
(training/parity/accuracy_gate.py). Heads are measured on --data, otherwise on the files of the run that made the
checkpoint, otherwise on texts that are generated from the vocabulary. A failed export leaves no files.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import get_args

import onnx
from pydantic import JsonValue, ValidationError

from models.bundle import Bundle, read_bundle, seal, staged
from models.checkpoint import Checkpoint, Head
from models.manifest import CARD, HEADS, MANIFEST, PARITY, TOKENIZER, EncoderEntry, HeadEntry, Manifest, read_manifest
from models.onnx_runtime import Precision
from models.reference import Reference
from training.errors import ExportError
from training.evaluation.report import REPORTS, copy_report, write_report
from training.evaluation.report_figures import Report
from training.evaluation.report_text import figure_text
from training.exporting.card_history import TRAINING_EXAMPLES, base_license
from training.exporting.encoder_graph import encoder_model, fingerprint, head_model
from training.exporting.graph_builder import place_constants, share_constants
from training.exporting.model_card import model_card, said_in
from training.exporting.unchanged_parts import Kept
from training.parity.accuracy_gate import check_parity, remarks
from training.parity.evidence import Data, check_heads
from training.parity.logit_comparison import Figures
from training.parity.measure import REFERENCE, measure_parity
from training.parity.probe_file import write_probe
from training.parity.run_files import RunFiles
from training.run.hugging_face import read_any
from training.run.option_types import points, positive
from training.run.progress import tell
from training.run.provenance import code
from training.run.results import HEADLINES
from training.run.start_from import read_base

LIBRARIES = ("torch", "onnx", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export, besides the checkpoint."""

    name: str
    version: str = "1.0.0"
    precisions: tuple[Precision, ...] = ()
    """By default int8, or the precisions of the base."""
    data: Data = field(default_factory=dict)
    """Validation data by head, one or several files."""
    run: RunFiles | None = None
    """The run whose files measure heads without `data`."""
    limit: int | None = None
    """Random examples for measuring each head; by default all of `data`, and 1,000 of a run."""
    budget: float = 0.5
    """Maximum points that a head may lose by int8 or fp16."""
    card: Path | None = None
    """Text for README.md of the bundle, above the figures; by default the text that a person wrote there before."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Provenance that only people know: data, licenses."""
    replace: bool = False
    base: Path | None = None
    """A bundle with the same encoder; unchanged parts keep their bytes."""


def export(checkpoint: Checkpoint, out: Path, options: ExportOptions) -> Bundle:
    """Write and verify a bundle; raise ExportError, and leave no files, if a head exceeds the budget."""
    _check(checkpoint, options)
    kept = Kept.of(read_bundle(options.base), checkpoint, options.precisions) if options.base else None
    with staged(out, options.replace) as directory:
        manifest = _manifest(checkpoint, options, kept)
        _write_graphs(checkpoint, manifest, directory, kept)
        _write_tokenizer(checkpoint, directory)
        (directory / PARITY).write_text("{}\n", encoding="utf8")  # opening a bundle verifies its files
        bundle = Bundle(directory, seal(directory, manifest), checkpoint.tokenizer)
        reference = kept.reference if kept else REFERENCE
        reports: dict[str, Report] = {}
        met: dict[str, Reference] = {}
        figures = measure_parity(checkpoint, bundle, options.data, options.limit, options.run, reference, reports, met)
        for remark in remarks(figures):
            tell(remark)
        check_parity(figures, options.budget)
        write_reports(manifest, reports, directory, options.run.directory if options.run else None)
        manifest = with_references(with_metrics(manifest, figures), met)
        (directory / PARITY).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf8")
        if manifest.encoder.files.keys() != {"int8"}:
            write_probe(checkpoint, bundle, directory)
        text = said_in(options.card or out / CARD)
        (directory / CARD).write_text(model_card(manifest, figures, directory, text), encoding="utf8")
        seal(directory, manifest)
        read_bundle(directory)
    return read_bundle(out)


def _check(checkpoint: Checkpoint, options: ExportOptions) -> None:
    if not checkpoint.heads:
        raise ExportError("the checkpoint has an encoder but no head, expected at least one; finetune it first")
    check_heads(options.data, checkpoint.heads)
    for files in options.data.values():
        for path in [files] if isinstance(files, Path) else files:
            if not path.exists():
                raise ExportError(f"{path} does not exist, expected validation data; correct --data HEAD=FILE")
    if options.card and not options.card.is_file():
        raise ExportError(f"{options.card} does not exist, expected the bundle's model card; correct --card")


def _manifest(checkpoint: Checkpoint, options: ExportOptions, kept: Kept | None) -> Manifest:
    """Return the manifest, still without hashes."""
    known = tuple(kept.bundle.manifest.encoder.files) if kept else ("int8",)
    encoder = _encoder_entry(checkpoint, options.precisions or known, kept)
    heads = {name: _head_entry(name, head, kept) for name, head in checkpoint.heads.items()}
    files = [*encoder.files.values(), *(head.file for head in heads.values()), TOKENIZER, PARITY]
    provenance: dict[str, JsonValue] = {
        **base_license(options.base, options.run),
        **options.notes,
        **({"base": f"{kept.bundle.manifest.name} {kept.bundle.manifest.version}"} if kept else {}),
        "weights": kept.mark if kept else fingerprint(checkpoint.encoder),
        "command": shlex.join(["python", "-m", "training", *map(_portable, sys.argv[1:])]),
        **code(),
        **({"training": options.run.provenance} if options.run and options.run.provenance else {}),
        "libraries": {name: version_of(name) for name in LIBRARIES},
    }
    hashes = dict.fromkeys(files, "0" * 64)
    try:
        return Manifest(
            name=options.name,
            version=options.version,
            encoder=encoder,
            heads=heads,
            sha256=hashes,
            provenance=provenance,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ExportError(f"{place}: {first['input']!r} is not allowed ({first['msg']}); choose another name") from None


def _encoder_entry(checkpoint: Checkpoint, precisions: Sequence[Precision], kept: Kept | None) -> EncoderEntry:
    config, files = checkpoint.config, kept.files if kept else {}
    return EncoderEntry(
        files={precision: files.get(precision, f"encoder.{precision}.onnx") for precision in precisions},
        max_length=config.max_length,
        hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
        vocab_size=checkpoint.tokenizer.vocab_size,
        lowercase=checkpoint.tokenizer.lowercase,
    )


def _head_entry(name: str, head: Head, kept: Kept | None) -> HeadEntry:
    spec = head.spec
    before = kept.bundle.manifest.heads[name] if kept and name in kept.heads else None
    return HeadEntry(
        task=spec.task,
        file=f"{HEADS}/{name}.onnx",
        labels=spec.labels,
        defaults=spec.defaults,
        temperature=spec.temperature,
        trained=spec.trained,
        problem_type=spec.problem_type,
        metrics=head.metrics,
        reference=before.reference if before and before.spec == spec else None,
    )


def _portable(word: str) -> str:
    """Reduce a path outside the working directory to its name; other machines have other directories."""
    key, separator, value = word.rpartition("=")
    path = Path(value)
    return f"{key}{separator}{path.name if path.is_absolute() or '..' in path.parts else value}"


def _write_graphs(checkpoint: Checkpoint, manifest: Manifest, directory: Path, kept: Kept | None) -> None:
    encoder, vocab_size = checkpoint.encoder, manifest.encoder.vocab_size
    files = manifest.encoder.files
    (directory / HEADS).mkdir()
    if kept:
        kept.copy(directory)
    mark, int8_only = str(manifest.provenance["weights"]), set(files) == {"int8"}
    made = [name for name in files if not kept or name not in kept.files]
    graphs = {files[name]: encoder_model(encoder, name, vocab_size, mark) for name in made}
    for name, entry in manifest.heads.items():
        if not (kept and name in kept.heads):
            module = checkpoint.heads[name].module
            graphs[entry.file] = head_model(module, entry.spec, mark, encoder.config, vocab_size, int8_only)
    if not kept:
        share_constants(list(graphs.values()), directory / HEADS)
    for file, graph in graphs.items():
        # ONNX Runtime reads no data outside the directory of a graph, so the encoder's shared constants are below it.
        place_constants(graph, "" if file.startswith(HEADS) else f"{HEADS}/")
        onnx.save(graph, directory / file)


def _write_tokenizer(checkpoint: Checkpoint, directory: Path) -> None:
    """Write only tokenizer.json; the other files repeat its content for other readers."""
    checkpoint.tokenizer.write(directory)
    for name in ("vocab.txt", "tokenizer_config.json"):
        (directory / name).unlink(missing_ok=True)


KEPT_FIGURES = (TRAINING_EXAMPLES, "thresholds")
"""Figures of the run that a measurement of the graph does not replace."""


def with_metrics(manifest: Manifest, figures: Figures) -> Manifest:
    """Replace figures on fewer examples by those of the first precision, which is served."""
    precision, measured = next(iter(figures["precisions"].items()))
    heads = dict(manifest.heads)
    for name, of_head in measured["heads"].items():
        validation = of_head.get("validation")
        if validation and validation["examples"] >= _examples(heads[name]):
            kept = {key: heads[name].metrics[key] for key in KEPT_FIGURES if key in heads[name].metrics}
            metrics = {"graph": precision, "data": validation["file"], **kept, **validation["scores"]}
            heads[name] = heads[name].model_copy(update={"metrics": metrics})
    return manifest.model_copy(update={"heads": heads})


def with_references(manifest: Manifest, found: Mapping[str, Reference]) -> Manifest:
    """Add the reference figures of heads from the measured validation data, which a person chose as typical traffic."""
    heads = dict(manifest.heads)
    for name, reference in found.items():
        heads[name] = heads[name].model_copy(update={"reference": reference})
    return manifest.model_copy(update={"heads": heads})


def write_reports(manifest: Manifest, reports: Mapping[str, Report], directory: Path, run: Path | None = None) -> None:
    """Write the report of each head, without texts: the measured one, or the run's if that has more examples."""
    for name, head in manifest.heads.items():
        found, place = reports.get(name), directory / REPORTS / name
        if found and found.scores["examples"] >= _examples(head):
            write_report(found, place, wrong=False)
        elif run:
            copy_report(run / REPORTS / name, place)


def _examples(head: HeadEntry) -> float:
    """Return the number of examples behind the figures of a head."""
    count = head.metrics.get("examples", 0)
    return float(count) if isinstance(count, int | float) else 0.0


# ---- command line --------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `export_command` reads."""
    parser.add_argument(
        "checkpoint", type=Path, metavar="CHECKPOINT", help="directory with config.json, or a bundle to export again"
    )
    add_bundle_arguments(parser)


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `options_of` reads: everything except the source of the weights."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="BUNDLE", help="directory to write")
    add("--name", help="name of the bundle; default: the name of its directory")
    add("--version", help="version of the bundle; default: 1.0.0, or the one of a bundle that is exported again")
    add("--precision", type=_precisions, default=(), metavar="P,…", help="int8, fp16, fp32, or several; default: int8")
    add("--data", type=pair, action="append", default=[], metavar="HEAD=FILE", help="validation data; repeatable")
    add("--limit", type=positive, metavar="N", help="measure each head with N random examples")
    add("--budget", type=points, default=0.5, metavar="POINTS", help="points that int8 and fp16 may lose; default: 0.5")
    add("--card", type=Path, metavar="FILE", help="text for README.md, above the figures; default: the old one")
    add("--note", type=pair, action="append", default=[], metavar="KEY=TEXT", help="license=…, language=…; repeatable")
    add("--replace", action="store_true", help="overwrite an existing bundle")
    add("--base", type=Path, metavar="BUNDLE", help="bundle it was trained from; unchanged parts are copied")


def options_of(arguments: argparse.Namespace) -> ExportOptions:
    """Return the options from the arguments of `add_bundle_arguments`."""
    return ExportOptions(
        name=arguments.name or arguments.out.resolve().name,
        version=arguments.version or "1.0.0",
        precisions=arguments.precision,
        data=data_of(arguments.data),
        run=RunFiles.find(arguments.checkpoint) if "checkpoint" in arguments else None,
        limit=arguments.limit,
        budget=arguments.budget,
        card=arguments.card,
        notes=dict(arguments.note),
        replace=arguments.replace,
        base=arguments.base,
    )


def data_of(pairs: Sequence[tuple[str, str]]) -> dict[str, list[Path]]:
    """Group the files of --data by their head."""
    data: dict[str, list[Path]] = {}
    for head, path in pairs:
        data.setdefault(head, []).append(Path(path))
    return data


def export_command(arguments: argparse.Namespace) -> None:
    """Export as the command line says."""
    options, source = options_of(arguments), arguments.checkpoint
    if (source / MANIFEST).exists():
        checkpoint, manifest = read_base(source), read_manifest(source / MANIFEST)
        name, version = arguments.name or manifest.name, arguments.version or manifest.version
        card = options.card or (source / CARD if (source / CARD).is_file() else None)
        options = replace(options, base=options.base or source, name=name, version=version, card=card)
    else:
        checkpoint = read_any(source)
    report(export(checkpoint, arguments.out, options))


def report(bundle: Bundle) -> None:
    """Print what was written, its size and figures, and the command that serves it."""
    size = sum(path.stat().st_size for path in bundle.directory.rglob("*") if path.is_file())
    heads = ", ".join(f"{name} ({head.task}{_figure(head)})" for name, head in bundle.manifest.heads.items())
    place = shlex.quote(str(bundle.directory))
    sys.stdout.write(f"{bundle.directory}: {size / 1e6:.1f} MB, {heads}; next: bertheads-serve --bundle {place}\n")


def _figure(head: HeadEntry) -> str:
    """Return the most important figure of a head, as ", accuracy 90.5 %"; "" without any."""
    scores = {key: value for key, value in head.metrics.items() if isinstance(value, int | float)}
    name = next((name for name in HEADLINES if name in scores), None)
    return f", {name.replace('_', ' ')} {figure_text(name, scores[name])}" if name else ""


def _precisions(text: str) -> tuple[Precision, ...]:
    known: tuple[Precision, ...] = get_args(Precision)
    chosen = tuple(name for name in known if name in text.split(","))
    if unknown := set(text.split(",")) - set(known):
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is not one of {', '.join(known)}")
    return chosen


def pair(text: str) -> tuple[str, str]:
    """Parse KEY=VALUE."""
    key, separator, value = text.partition("=")
    if not (key and separator and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE, with something on both sides")
    return key, value
