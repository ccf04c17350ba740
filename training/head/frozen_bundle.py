"""The bundle of a frozen head: the base's encoder, byte for byte, and one new graph, written without PyTorch."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from pydantic import JsonValue

from models.bundle import Bundle, read_bundle, seal, staged
from models.manifest import CARD, HEADS, PARITY, TOKENIZER, HeadEntry, Manifest
from models.predictor import Predictor
from models.reference import Reference
from models.session import Session
from training.evaluation.metrics import Scores, headline
from training.evaluation.report import REPORTS, copy_report, report_of, write_report
from training.evaluation.report_figures import Report
from training.exporting.card_history import TRAINING_EXAMPLES, base_license
from training.exporting.graph_builder import ATTENTION_OPSET, OPSET, Graph
from training.exporting.model_card import model_card, said_in
from training.finetuning.regression import Floats
from training.head.frozen import THREADS, Learned, read_vectors, rows_of
from training.parity.accuracy_gate import check_parity
from training.parity.evidence import TEXTS, Evidence
from training.parity.logit_comparison import Figures, compare
from training.parity.reference_figures import reference_of
from training.parity.serving_session import graph_hashes, session_figures
from training.run.provenance import code, portable, trained
from training.text.examples import Example

BUDGET = 0.5
"""Maximum points that the head may lose in its graph."""


@dataclass(frozen=True)
class Measured:
    """The examples for measuring a head, and their file."""

    path: Path
    examples: Sequence[Example]
    is_validation: bool
    """Whether the head did not learn from them."""
    learned_from: int
    """Number of examples that the head learned from."""
    run: Path
    """The run with the provenance of the head, where the report goes."""


def write_frozen(learned: Learned, name: str, data: Measured, out: Path, version: str, replace_it: bool) -> Bundle:
    """Write and verify a bundle of the base's encoder and only the new head; raise ExportError if it exceeds BUDGET."""
    manifest = _manifest(learned, name, version, data.run)
    with staged(out, replace_it) as directory:
        _copy_encoder(learned.encoder, learned.base.directory, directory)
        (directory / HEADS).mkdir(exist_ok=True)
        onnx.save(head_graph(learned), directory / manifest.heads[name].file)
        (directory / PARITY).write_text("{}\n", encoding="utf8")  # opening a bundle verifies its files
        bundle = Bundle(directory, seal(directory, manifest), learned.base.tokenizer)
        figures, report = measure(learned, name, bundle, data)
        check_parity(figures, BUDGET)
        predictor = Predictor(bundle, precision=learned.precision, threads=THREADS)
        met = reference_of(predictor, name, data.examples) if data.is_validation else None
        manifest = _with_scores(manifest, name, learned, data, report, met)
        if report:
            write_report(report, data.run / REPORTS / name)
            copy_report(data.run / REPORTS / name, directory / REPORTS / name)
        (directory / PARITY).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf8")
        (directory / CARD).write_text(model_card(manifest, figures, directory, said_in(out / CARD)), encoding="utf8")
        seal(directory, manifest)
        read_bundle(directory)
    return read_bundle(out)


def head_graph(learned: Learned) -> ModelProto:
    """Return the graph of a classifier: vectors [n, H] to logits [n, C]."""
    graph, weights, spec = Graph(), learned.weights, learned.spec
    pooled = graph.add("Tanh", _linear(graph, "vectors", weights.pooler, weights.pooler_bias, "pooler"))
    _linear(graph, pooled, weights.classifier, weights.bias, "classifier", "logits")
    metadata = {"encoder": learned.fingerprint, "task": spec.task, "labels": spec.labels}
    width, labels = weights.classifier.shape
    inputs, outputs = ("vectors", TensorProto.FLOAT, ["n", width]), ("logits", TensorProto.FLOAT, ["n", labels])
    opset = ATTENTION_OPSET if learned.precision == "int8" else OPSET
    return graph.model(spec.task, [inputs], [outputs], metadata, opset)


def _linear(graph: Graph, values: str, weight: Floats, bias: Floats, name: str, out: str = "") -> str:
    names = graph.constant(f"{name}.weight", weight), graph.constant(f"{name}.bias", bias)
    return graph.add("Gemm", values, *names, out=out)


def _manifest(learned: Learned, name: str, version: str, run: Path) -> Manifest:
    """Return the manifest, still without hashes."""
    base, spec, file = learned.base.manifest, learned.spec, f"{HEADS}/{name}.onnx"
    entry = HeadEntry(
        task=spec.task,
        file=file,
        labels=spec.labels,
        defaults=spec.defaults,
        temperature=spec.temperature,
        trained=spec.trained,
    )
    encoder = base.encoder.model_copy(update={"files": {learned.precision: base.encoder.files[learned.precision]}})
    files = [*encoder.files.values(), file, TOKENIZER, PARITY]
    provenance: dict[str, JsonValue] = {
        "base": f"{base.name} {base.version}",
        "weights": learned.fingerprint,
        "command": shlex.join(["python", "-m", "training", *portable(sys.argv[1:])]),
        **code(),
        **base_license(learned.base.directory, None),
        "training": trained(run),
    }
    return Manifest(
        name=name,
        version=version,
        encoder=encoder,
        heads={name: entry},
        sha256=dict.fromkeys(files, "0" * 64),
        provenance=provenance,
    )


def _copy_encoder(encoder: Path, source: Path, directory: Path) -> None:
    """Copy the graph of the encoder, its constants, and the tokenizer."""
    tensors = onnx.load(encoder, load_external_data=False).graph.initializer
    entries = [entry for tensor in tensors for entry in tensor.external_data if entry.key == "location"]
    constants = {encoder.parent / entry.value for entry in entries}
    for path in (source / TOKENIZER, encoder, *sorted(constants)):
        target = directory / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        copyfile(path, target)


def _with_scores(
    manifest: Manifest,
    name: str,
    learned: Learned,
    data: Measured,
    report: Report | None,
    reference: Reference | None,
) -> Manifest:
    metrics: dict[str, JsonValue] = {TRAINING_EXAMPLES: float(data.learned_from)}
    if report:
        metrics |= {"graph": learned.precision, "data": data.path.name, **report.scores}
    entry = manifest.heads[name].model_copy(update={"metrics": metrics, "reference": reference})
    return manifest.model_copy(update={"heads": {name: entry}})


def measure(learned: Learned, name: str, bundle: Bundle, data: Measured) -> tuple[Figures, Report | None]:
    """Return parity.json and a report: the served head against its weights in float64, on the same vectors."""
    predictor = Predictor(bundle, precision=learned.precision, threads=THREADS)
    rows = rows_of(learned.spec, learned.base, data.examples[: TEXTS["classify"]])
    vectors = read_vectors(Session(bundle, precision=learned.precision), rows)
    expected = [one[None].astype(np.float32) for one in learned.weights.logits(vectors)]
    compared = compare(learned.spec, expected, predictor.run(name, rows))
    head: Figures = {**compared, "texts": {"source": data.path.name, "texts": len(rows), **compared}}
    report = report_of(predictor, name, data.examples) if data.is_validation else None
    if report:
        if learned.calibration.error is not None:
            report.scores["calibration_error"] = learned.calibration.error  # from examples that T was not fitted on
        head["validation"] = _described(data, report.scores)
    origin = f"{learned.base.manifest.name} {learned.base.manifest.version}"
    figures = {
        "reference": f"NumPy, float64, on the {learned.precision} vectors of {origin}, from which the head learned",
        "session": session_figures(),
        "graphs": graph_hashes(bundle),
        "probes": {"rows": len(rows), "lengths": sorted({len(row.input_ids) for row in rows})},
        "precisions": {learned.precision: {"heads": {name: head}}},
    }
    return figures, report


def _described(data: Measured, scores: Scores) -> Figures:
    evidence = Evidence("validation", (data.path,), list(data.examples), len(data.examples), fitted=True)
    metric = headline(scores)
    same = {"metric": metric, "reference": scores[metric], "value": scores[metric], "loss": 0.0, "error": 0.0}
    return {**evidence.describe(), **same, "scores": scores}
