"""If these fail, a bundle differs from the checkpoint it was made from, or the figures of int8 are wrong."""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, inliner, numpy_helper

from models.bundle import Bundle, read_bundle, seal
from models.checkpoint import Checkpoint, Head, read_checkpoint, write_checkpoint
from models.errors import BundleError
from models.heads import build_head
from models.onnx_runtime import Precision
from models.row import Row
from models.session import Session
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.__main__ import main
from training.errors import ExportError
from training.exporting import export as exporting
from training.exporting.encoder_graph import encoder_model
from training.exporting.export import ExportOptions, export
from training.exporting.graph_builder import MICROSOFT, OURS, Graph
from training.parity.evidence import TEXTS
from training.parity.measure import probes, reference_logits
from training.run.start_from import read_base


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Tokenizer) -> Checkpoint:
    return bundles.checkpoint(tokenizer)


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    options = ExportOptions("tiny", precisions=("int8",), budget=bundles.ANY_LOSS, notes={"data": "none"})
    return export(checkpoint, tmp_path_factory.mktemp("bundle") / "tiny", options)


# ---- int8 ----------------------------------------------------------------------------------------------------------


def test_int8_holds_all_weights_as_integers(checkpoint: Checkpoint) -> None:
    model = encoder_model(checkpoint.encoder, "int8", checkpoint.tokenizer.vocab_size)
    assert sum(node.domain == OURS and node.op_type.startswith("Linear") for node in model.graph.node) == 12
    config = checkpoint.config
    tables = (config.max_position_embeddings + config.type_vocab_size) * config.hidden_size
    floats = sum(
        numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2 and tensor.dims[1] > 1
    )
    assert floats == tables


# ---- bundles -------------------------------------------------------------------------------------------------------


def test_what_a_bundle_says(bundle: Bundle, checkpoint: Checkpoint) -> None:
    manifest = bundle.manifest
    assert manifest.encoder.model_dump() == {
        "files": {"int8": "encoder.int8.onnx"},
        "max_length": 64,
        "hidden_size": 32,
        "layers": 2,
        "vocab_size": bundle.tokenizer.vocab_size,
        "lowercase": True,
    }
    assert {name: head.spec for name, head in manifest.heads.items()} == bundles.HEADS
    assert manifest.provenance["data"] == "none"
    assert set(manifest.provenance) == {"data", "weights", "command", "package", "commit", "libraries"}
    found = sorted(path.relative_to(bundle.directory).as_posix() for path in bundle.directory.rglob("*.*"))
    heads = [f"heads/{name}.onnx" for name in sorted(bundles.HEADS)]
    assert found == ["README.md", "bundle.json", "encoder.int8.onnx", *heads, "parity.json", "tokenizer.json"]


def test_only_an_int8_bundle_has_an_int8_decoder(bundle: Bundle, checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions("both", precisions=("int8", "fp32"), budget=bundles.ANY_LOSS)
    both = export(checkpoint, tmp_path / "both", options)
    kinds = [
        [node.op_type for node in onnx.load(made.directory / "heads/fill-mask.onnx").graph.node]
        for made in (bundle, both)
    ]
    assert "LinearTransposed" in kinds[0] and "Gemm" in kinds[1] and "LinearTransposed" not in kinds[1]


@pytest.mark.parametrize("precisions", [("int8",), ("fp32",), ("int8", "fp16", "fp32")])
def test_the_embedding_shared_with_the_decoder_is_stored_once(
    precisions: tuple[Precision, ...], checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions("tiny", precisions=precisions, budget=bundles.ANY_LOSS)
    apart = export(checkpoint, tmp_path / "apart", options)
    monkeypatch.setattr("training.exporting.graph_builder.LARGE", 1000)
    shared = export(checkpoint, tmp_path / "shared", options)
    table = shared.directory / "heads" / "embeddings.word.bin"
    width = 1 if precisions == ("int8",) else 4
    assert table.stat().st_size == width * checkpoint.tokenizer.vocab_size * checkpoint.config.hidden_size
    assert "heads/embeddings.word.bin" in shared.manifest.sha256
    row = Row([5, checkpoint.tokenizer.mask_id, 7], [0, 0, 1], [1])
    for precision in precisions:
        (found,), (expected,) = (
            Session(bundle, precision=precision).run([("fill-mask", row)]) for bundle in (shared, apart)
        )
        np.testing.assert_array_equal(found, expected)
    table.write_bytes(bytes(table.stat().st_size))
    with pytest.raises(BundleError, match=r"embeddings\.word\.bin has SHA-256"):
        read_bundle(shared.directory)


def test_every_precision_keeps_to_float32_outside(checkpoint: Checkpoint, tmp_path: Path) -> None:
    options = ExportOptions("all", precisions=("int8", "fp16", "fp32"), budget=bundles.ANY_LOSS)
    made = export(checkpoint, tmp_path / "all", options)
    row = Row([2, 9, 3], [0, 0, 0], [0, 2])
    logits = {precision: Session(made, precision=precision).run([("ner", row)])[0] for precision in options.precisions}
    tolerances: dict[Precision, float] = {"fp16": 0.05, "int8": 2.0}
    for precision, tolerance in tolerances.items():
        assert logits[precision].dtype == np.float32
        assert 0 < np.abs(logits[precision] - logits["fp32"]).max() < tolerance


def test_over_the_budget_nothing_is_written(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights choose among near equals, so int8 loses something on made texts, without any data."""
    for task, few in TEXTS.items():
        monkeypatch.setitem(TEXTS, task, 10 * few)
    with pytest.raises(ExportError, match=r"loses .* points in int8 by its expected loss .* expected at most 0; "):
        export(checkpoint, tmp_path / "out", ExportOptions("tiny", budget=0.0))
    assert list(tmp_path.iterdir()) == []


def test_the_gate_goes_by_validation_data(checkpoint: Checkpoint, tmp_path: Path) -> None:
    data = tmp_path / "validation.jsonl"
    lines = [{"text": word, "label": "negative" if len(word) % 2 else "positive"} for word in ("a", "the", "cat", "on")]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines * 4))
    options = ExportOptions("tiny", data={"sentiment": data}, budget=bundles.ANY_LOSS, limit=10)
    made = export(checkpoint, tmp_path / "out", options)
    measured = json.loads((made.directory / "parity.json").read_text())["precisions"]["int8"]["heads"]["sentiment"]
    validation = measured["validation"]
    assert validation["file"] == "validation.jsonl" and validation["metric"] == "accuracy"
    assert validation["loss"] == pytest.approx(100 * (validation["reference"] - validation["value"]))
    metrics = made.manifest.heads["sentiment"].metrics
    assert metrics["graph"] == "int8" and metrics["examples"] == 10
    assert "validation.jsonl" in (made.directory / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (ExportOptions("x", data={"mood": Path("x")}), "no head 'mood', expected one of sentiment, nli"),
        (ExportOptions("x", card=Path("nowhere.md")), "nowhere.md does not exist"),
        (ExportOptions("my bundle"), "name: 'my bundle' is not allowed"),
        (ExportOptions("x", version="1.0 beta"), "version: '1.0 beta' is not allowed"),
    ],
)
def test_options_that_do_not_fit(
    checkpoint: Checkpoint, tmp_path: Path, options: ExportOptions, complaint: str
) -> None:
    with pytest.raises(ExportError, match=complaint):
        export(checkpoint, tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_heads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    bare = bundles.checkpoint(tokenizer)
    bare.heads.clear()
    with pytest.raises(ExportError, match="no head"):
        export(bare, tmp_path / "out", ExportOptions("x"))


def test_a_graph_that_one_file_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.exporting.graph_builder.MAX_BYTES", 100)
    graph = Graph()
    graph.add("Add", "x", graph.constant("c", np.ones((8, 8), np.float32)), out="y")
    value = ("x", TensorProto.FLOAT, list[int | str]([8, 8]))
    with pytest.raises(ExportError, match="expected at most 100; export it as fp16"):
        graph.model("net", [value], [("y", *value[1:])], {})


def test_the_command(tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"mood": HeadSpec("classify", ["negative", "positive"])}
    write_checkpoint(bundles.checkpoint(tokenizer, one), tmp_path / "checkpoint")
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    words = [
        str(tmp_path / "checkpoint"),
        "--out",
        str(tmp_path / "made"),
        "--precision",
        "fp32,int8",
        "--budget",
        "100",
    ]
    exporting.export_command(parser.parse_args([*words, "--note", "license=Apache-2.0"]))
    made = read_bundle(tmp_path / "made")
    assert made.manifest.name == "made" and list(made.manifest.encoder.files) == ["int8", "fp32"]
    assert made.manifest.provenance["license"] == "Apache-2.0"
    assert capsys.readouterr().out.startswith(str(tmp_path / "made"))


@pytest.mark.parametrize("wrong", [["--precision", "int4"], ["--data", "x"], ["--note", "=x"]])
def test_arguments_that_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["checkpoint", "--out", "out", *wrong])
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.parametrize(("precision", "opset"), [("int8", 24), ("fp32", 21), ("fp16", 21)])
def test_the_opset_is_one_the_service_reads(precision: Precision, opset: int, checkpoint: Checkpoint) -> None:
    model = encoder_model(checkpoint.encoder, precision, checkpoint.tokenizer.vocab_size)
    ours = {(OURS, 1)} if precision == "int8" else set()
    assert {(each.domain, each.version) for each in model.opset_import} == {("", opset), (MICROSOFT, 1)} | ours
    assert model.ir_version <= 10


def former(model: onnx.ModelProto) -> onnx.ModelProto:
    """An encoder in int8 with the attention of older bundles: an operator of ONNX Runtime's own, with its biases."""
    made = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "Attention":
            rows = [made[name] for name in node.input[:3]]
            sums = [made[gather.input[0]] for gather in rows]
            split = made[sums[0].input[1]]
            lengths = helper.make_node("Cast", [node.input[6]], [f"{node.output[0]}.lengths"], to=TensorProto.INT32)
            for gather, addition in zip(rows, sums, strict=True):
                gather.input[0] = addition.input[0]
            heads = helper.get_node_attr_value(node, "q_num_heads")
            inputs, outputs = [*node.input[:3], split.input[0], lengths.output[0]], list(node.output)
            older = helper.make_node("MultiHeadAttention", inputs, outputs, domain=MICROSOFT, num_heads=heads)
            model.graph.node.insert(list(model.graph.node).index(node), lengths)
            node.CopyFrom(older)
    return model


def test_attention_gives_the_same_bits_as_in_older_bundles(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers do not move, and a bundle of before is served and gone on from as one of today."""
    older = shutil.copytree(bundle.directory, tmp_path / "older")
    monkeypatch.setattr("models.onnx_runtime.find_kernels", lambda: None)
    model = former(inliner.inline_local_functions(onnx.load(bundle.directory / "encoder.int8.onnx")))
    assert "Attention" not in {node.op_type for node in model.graph.node}
    onnx.save(model, older / "encoder.int8.onnx")
    seal(older, bundle.manifest)
    lengths = [3, 40, 17, 64]
    rows = [Row([5 + 7 * n % 90 for n in range(length)], [0] * length, [0, length - 1]) for length in lengths]
    found, expected = (Session(each).run([("ner", row) for row in rows]) for each in (bundle, read_bundle(older)))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert read_base(older).config == read_base(bundle.directory).config


# ---- what a base keeps ---------------------------------------------------------------------------------------------


def with_a_head(bundle: Bundle) -> Checkpoint:
    """The checkpoint of a bundle with a further head, and one that was finetuned on."""
    grown = read_base(bundle.directory)
    for name, spec in {"mine": HeadSpec("classify", ["a", "b"]), "mask": HeadSpec("fill-mask", [])}.items():
        module = build_head(spec.task, len(spec.labels), grown.config, grown.encoder.embeddings.word)
        grown.heads[name] = Head(spec, module)
    with torch.no_grad():
        next(grown.heads["sentiment"].module.parameters()).add_(0.1)
    return grown


@pytest.mark.parametrize("precisions", [("int8",), ("fp32",), ("int8", "fp16", "fp32")])
def test_an_added_head_leaves_the_bytes_of_the_others(
    precisions: tuple[Precision, ...], checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.exporting.graph_builder.LARGE", 1000)
    options = ExportOptions("base", precisions=precisions, budget=bundles.ANY_LOSS)
    before = export(checkpoint, tmp_path / "base", options)
    write_checkpoint(with_a_head(before), tmp_path / "grown")
    options = ExportOptions("grown", budget=bundles.ANY_LOSS, base=before.directory)
    after = export(read_checkpoint(tmp_path / "grown"), tmp_path / "after", options)
    assert list(after.manifest.heads) == [*bundles.HEADS, "mine", "mask"]
    assert after.manifest.encoder == before.manifest.encoder and after.manifest.provenance["base"] == "base 1.0.0"
    moved = {file for file, digest in before.manifest.sha256.items() if after.manifest.sha256.get(file) != digest}
    known = {"probe.json"} if "fp32" in precisions else set()
    assert moved == {"heads/sentiment.onnx", "README.md", "parity.json"} | known
    row = Row([5, 6, checkpoint.tokenizer.mask_id, 7], [0, 0, 0, 1], [2])
    rows = [(name, row) for name in bundles.HEADS]
    for precision in precisions:
        served = [Session(made, precision=precision).run(rows) for made in (before, after)]
        for name, mine, theirs in zip(bundles.HEADS, *served, strict=True):
            assert np.array_equal(mine, theirs) == (name != "sentiment")


def test_a_base_with_another_encoder(checkpoint: Checkpoint, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"not that of .*tiny.*freeze_encoder = true, or export without --base"):
        export(checkpoint, tmp_path / "out", ExportOptions("x", base=bundle.directory))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precisions", [("fp16",), ("int8", "fp16")])
def test_a_bundle_of_int8_is_exported_for_a_gpu(
    precisions: tuple[Precision, ...], bundle: Bundle, tmp_path: Path
) -> None:
    """It answers what the weights in int8 give in PyTorch, by heads without integers; what it had keeps its bytes."""
    out = ["--out", str(tmp_path / "gpu"), "--precision", ",".join(precisions), "--budget", str(bundles.ANY_LOSS)]
    main(["export", str(bundle.directory), *out])
    made = read_bundle(tmp_path / "gpu")
    assert set(made.manifest.encoder.files) == set(precisions)
    assert made.manifest.provenance["base"] == "tiny 1.0.0" == f"{made.manifest.name} {made.manifest.version}"
    kept = {file for file, digest in bundle.manifest.sha256.items() if made.manifest.sha256.get(file) == digest}
    heads = {entry.file for entry in bundle.manifest.heads.values() if entry.task != "fill-mask"}
    assert heads | {"tokenizer.json"} <= kept
    assert ("encoder.int8.onnx" in kept) == ("int8" in precisions)
    operators = {node.op_type for node in onnx.load(made.directory / "heads/fill-mask.onnx").graph.node}
    assert "Gemm" in operators and "MatMulIntegerToFloat" not in operators
    checkpoint = read_base(bundle.directory)
    rows = [row for batch in probes(bundle.tokenizer, 64) for row in batch]
    expected = reference_logits(checkpoint, rows)["fill-mask"]
    found = Session(made, precision="fp16").run([("fill-mask", row) for row in rows])
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=0.05)
