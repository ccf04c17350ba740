"""If these fail, a damaged or mixed-up bundle is served: wrong answers under the right name."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from models.bundle import Bundle, read_bundle, seal, sha256_of, staged
from models.errors import BundleError
from models.manifest import MAX_JSON_BYTES, read_manifest
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.exporting.export import ExportOptions, export

FILES = [
    "encoder.int8.onnx",
    "encoder.fp32.onnx",
    "heads/sentiment.onnx",
    "heads/fill-mask.onnx",
    "tokenizer.json",
    "parity.json",
    "README.md",
]


@pytest.fixture(scope="module")
def original(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.make(tokenizer, tmp_path_factory.mktemp("bundle") / "tiny", ("int8", "fp32"))


@pytest.fixture
def copy(original: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.directory, tmp_path / "copy"))


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change bundle.json as a person might, by hand."""
    path = directory / "bundle.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def rehash(directory: Path) -> None:
    """Make every hash fit again, so that only the contents can give the change away."""
    hashes = {
        path.relative_to(directory).as_posix(): sha256_of(path)
        for path in directory.rglob("*")
        if path.is_file() and path.name != "bundle.json"
    }
    edit(directory, lambda values: values.update(sha256=hashes))


def refused(directory: Path, *parts: str) -> None:
    with pytest.raises(BundleError) as caught:
        read_bundle(directory)
    message = str(caught.value)
    for part in parts:
        assert part in message
    assert len(message) < 2000
    assert "; " in message, "no remedy"


def test_a_good_bundle(original: Bundle, copy: Path) -> None:
    read = read_bundle(copy)
    assert read.manifest == original.manifest
    assert read.manifest.heads["sentiment"].spec == bundles.HEADS["sentiment"]
    assert read.tokenizer.vocab_size == read.manifest.encoder.vocab_size


# ---- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte(copy: Path, name: str) -> None:
    contents = bytearray((copy / name).read_bytes())
    contents[len(contents) // 2] ^= 1
    (copy / name).write_bytes(contents)
    refused(copy, name, "has SHA-256", "expected", "export the bundle again")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    refused(copy, name, "does not exist")


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file(copy: Path, name: str) -> None:
    (copy / name).write_bytes(b"")
    refused(copy, name, "has SHA-256")


def test_a_file_that_is_not_listed(copy: Path) -> None:
    (copy / "heads" / "extra.onnx").write_bytes(b"x")
    refused(copy, "heads/extra.onnx is not listed in bundle.json", "remove it")


def test_a_symbolic_link_out(copy: Path, tmp_path: Path) -> None:
    (copy / "README.md").rename(tmp_path / "elsewhere")
    (copy / "README.md").symlink_to(tmp_path / "elsewhere")
    refused(copy, "README.md is a symbolic link")


def test_a_directory_linked_in(copy: Path, tmp_path: Path) -> None:
    (copy / "heads").rename(tmp_path / "heads")
    (copy / "heads").symlink_to(tmp_path / "heads")
    refused(copy, "heads is a symbolic link")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "is not a directory")
    refused(tmp_path, "bundle.json does not exist")


# ---- bundle.json ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "complaint"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[]", "holds a list"),
        (b"{}", "format is None"),
        (b'{"format": "bertheads-bundle/1"', "not valid JSON"),
        (b'{"format": "bertheads-bundle/1", "format": "bertheads-bundle/1"}', "'format' occurs more than once"),
        (b'{"format": NaN}', "NaN is not a JSON number"),
        (b'{"format": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
        (b'{"format": "bertheads-bundle/2"}', "format is 'bertheads-bundle/2', expected 'bertheads-bundle/1'"),
    ],
)
def test_json_that_is_none(copy: Path, contents: bytes, complaint: str) -> None:
    (copy / "bundle.json").write_bytes(contents)
    refused(copy, "bundle.json", complaint)


def test_huge_json(copy: Path) -> None:
    with (copy / "bundle.json").open("r+b") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    refused(copy, "bundle.json", f"expected at most {MAX_JSON_BYTES}")


def head(name: str, **changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["heads"][name].update(changes)


def encoder(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["encoder"].update(changes)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "unknown key": (lambda values: values.update(license="MIT"), ["license", "not permitted"]),
    "no version": (lambda values: values.pop("version"), ["version", "required"]),
    "name with a slash": (lambda values: values.update(name="../x"), ["name is '../x'"]),
    "no heads": (lambda values: values.update(heads={}), ["heads"]),
    "unknown task": (head("qa", task="summarize"), ["heads.qa.task is 'summarize'", "classify"]),
    "another task": (head("sentiment", task="pair"), ["heads.sentiment.task 'classify'", "says 'pair'"]),
    "renamed label": (head("sentiment", labels=["bad", "good"]), ["heads.sentiment.labels", "'bad'", "'negative'"]),
    "swapped labels": (head("sentiment", labels=["positive", "negative"]), ["heads.sentiment.labels"]),
    "dropped label": (head("nli", labels=["entailment", "neutral"]), ["nli.onnx", "logits"]),
    "label twice": (head("sentiment", labels=["a", "a"]), ["heads.sentiment", "'a' occurs more than once"]),
    "labels for qa": (head("qa", labels=["start", "end"]), ["heads.qa", "2 labels for task qa, expected none"]),
    "no labels": (head("ner", labels=[]), ["heads.ner", "0 labels for task tag, expected one for each logit"]),
    "unknown default": (head("sentiment", defaults={"top": 1}), ["heads.sentiment", "top: is not a parameter"]),
    "wrong default": (head("sentiment", defaults={"top_k": 0}), ["heads.sentiment", "parameters.top_k: is 0"]),
    "temperature 0": (head("nli", temperature=0.0), ["heads.nli.temperature is 0"]),
    "temperature text": (head("nli", temperature="1"), ["heads.nli.temperature is '1'"]),
    "longer than positions": (encoder(max_length=512), ["has 64 positions", "max_length", "is 512", "lower it to 64"]),
    "length of nothing": (encoder(max_length=2), ["encoder.max_length is 2"]),
    "another width": (encoder(hidden_size=64), ["vectors", "32", "64"]),
    "another depth": (encoder(layers=3), ["encoder.layers 2", "says 3"]),
    "another vocabulary": (encoder(vocab_size=30522), ["tokenizer.json has 417 entries, expected 30522"]),
    "cased": (encoder(lowercase=False), ["tokenizer.json lowercases: True, expected False"]),
    "no encoder": (encoder(files={}), ["encoder.files"]),
    "unknown precision": (encoder(files={"int4": "encoder.int8.onnx"}), ["encoder.files.int4"]),
    "path out": (head("qa", file="../qa.onnx"), ["heads.qa.file is '../qa.onnx'"]),
    "absolute path": (head("qa", file="/etc/passwd"), ["heads.qa.file is '/etc/passwd'"]),
    "path out in hashes": (lambda values: values["sha256"].update({"../x": "0" * 64}), ["sha256.../x"]),
    "a digest of nothing": (lambda values: values["sha256"].update({"README.md": "0"}), ["sha256.README.md is '0'"]),
    "a file without hash": (lambda values: values["sha256"].pop("heads/qa.onnx"), ["no entry for 'heads/qa.onnx'"]),
    "a file for two": (head("nsp", file="heads/nli.onnx"), ["'heads/nli.onnx' is named more than once"]),
    "the encoder as a head": (
        lambda values: (
            values["heads"]["qa"].update(file="encoder.fp32.onnx"),
            values["encoder"].update(files={"int8": "heads/qa.onnx"}),
        ),
        ["heads/qa.onnx: inputs are"],
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_manifest(copy: Path, change: str) -> None:
    alter, complaints = CHANGES[change]
    edit(copy, alter)
    refused(copy, *complaints)


def test_a_shorter_length_is_allowed(copy: Path) -> None:
    edit(copy, encoder(max_length=32))
    assert read_bundle(copy).manifest.encoder.max_length == 32


def test_a_head_may_get_another_name(copy: Path) -> None:
    """What the service asks for when two bundles have a head of the same name."""
    edit(copy, lambda values: values["heads"].update(mood=values["heads"].pop("sentiment")))
    parity = json.loads((copy / "parity.json").read_text())
    for precision in parity["precisions"].values():
        precision["heads"]["mood"] = precision["heads"].pop("sentiment")
    (copy / "parity.json").write_text(json.dumps(parity))
    rehash(copy)
    assert "mood" in read_bundle(copy).manifest.heads


# ---- contents with hashes that fit ---------------------------------------------------------------------------------


def test_swapped_head_files(copy: Path) -> None:
    """nli has three labels, nsp two; ner and nli have three both."""
    (copy / "heads/nli.onnx").rename(copy / "heads/x")
    (copy / "heads/ner.onnx").rename(copy / "heads/nli.onnx")
    (copy / "heads/x").rename(copy / "heads/ner.onnx")
    rehash(copy)
    refused(copy, "heads/nli.onnx was exported with heads.nli.task 'tag'", "says 'pair'")


def test_a_head_of_another_encoder(copy: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    stranger = bundles.checkpoint(tokenizer)
    stranger.encoder.embeddings.norm.bias.data += 1
    other = export(stranger, tmp_path / "other", ExportOptions("other", precisions=("fp32",)))
    shutil.copy(other.directory / "heads/qa.onnx", copy / "heads/qa.onnx")
    rehash(copy)
    refused(copy, "heads/qa.onnx belongs to encoder", "export both together")


@pytest.mark.parametrize("name", ["encoder.int8.onnx", "heads/qa.onnx"])
def test_a_truncated_graph(copy: Path, name: str) -> None:
    os.truncate(copy / name, (copy / name).stat().st_size // 2)
    rehash(copy)
    refused(copy, name, "is not an ONNX graph that loads")


def test_a_graph_of_someone_else(copy: Path) -> None:
    path = copy / "heads/qa.onnx"
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    rehash(copy)
    refused(copy, "heads/qa.onnx: the graph has no metadata 'task'")


def test_a_graph_with_other_types(copy: Path) -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["B", "S"]) for name in names]
    inputs.append(helper.make_tensor_value_info("positions", TensorProto.INT64, ["N"]))
    output = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["N", 32])
    zeros = helper.make_node("ConstantOfShape", ["shape"], ["vectors"])
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [1, 32])
    graph = helper.make_graph([zeros], "encoder", inputs, [output], [shape])
    opset = helper.make_opsetid("", 21)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), copy / "encoder.int8.onnx")
    rehash(copy)
    refused(copy, "encoder.int8.onnx: inputs are", "tensor(int32)", "expected", "tensor(int64)")


@pytest.mark.parametrize(
    "parity", ["{}", '{"precisions": {"int8": {"heads": {}}}}', "[]", "nothing", '{"precisions": 3}']
)
def test_parity_that_says_nothing(copy: Path, parity: str) -> None:
    (copy / "parity.json").write_text(parity)
    rehash(copy)
    refused(copy, "parity.json")


def test_a_tokenizer_that_is_none(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    rehash(copy)
    refused(copy, "tokenizer.json is not a tokenizers file")


# ---- writing -------------------------------------------------------------------------------------------------------


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged(tmp_path / "out") as directory:
        (directory / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_replaced_only_if_asked(original: Bundle, copy: Path) -> None:
    with pytest.raises(BundleError, match="exists already"), staged(copy):
        pass
    manifest = original.manifest.model_copy(update={"version": "2.0.0"})
    with staged(copy, replace=True) as directory:
        shutil.copytree(original.directory, directory, dirs_exist_ok=True)
        seal(directory, manifest)
        assert read_manifest(copy / "bundle.json").version == "1.0.0", "the old one serves until the new is complete"
    assert read_bundle(copy).manifest.version == "2.0.0"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with pytest.raises(BundleError, match="is not a bundle"), staged(precious, replace=True):
        pass
    assert precious.exists()
