"""If these fail, a file that changes after verification changes answers or crashes the service."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from models import contents
from models.bundle import Bundle, read_bundle
from models.contents import Contents
from models.errors import BundleError
from models.onnx_runtime import open_graph
from models.session import Session
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.exporting.export import ExportOptions, export


@pytest.fixture(scope="module")
def original(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """In two precisions, which share constants, as large ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.exporting.graph_builder.LARGE", 256)
        made = bundles.make(tokenizer, tmp_path_factory.mktemp("bundle") / "tiny", ("int8", "fp32"))
    assert list(made.directory.rglob("*.bin"))
    return made


@pytest.fixture
def copy(original: Bundle, tmp_path: Path) -> Bundle:
    return read_bundle(Path(shutil.copytree(original.directory, tmp_path / "copy")))


def logits(session: Session, bundle: Bundle) -> list[bytes]:
    generator = np.random.default_rng(3)
    rows = [bundles.random_row(bundle, generator, 20) for _ in bundle.manifest.heads]
    found = session.run(list(zip(bundle.manifest.heads, rows, strict=True)))
    return [each.tobytes() for each in found]


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_files_that_change_under_a_session_change_nothing(precision: str, copy: Bundle) -> None:
    session = Session(copy, precision=precision, wide_threads=2)  # type: ignore[arg-type]
    expected = logits(session, copy)
    files = [path for path in copy.directory.rglob("*") if path.is_file()]
    for path in files:
        path.write_bytes(os.urandom(path.stat().st_size))
    assert logits(session, copy) == expected
    for path in files:
        os.truncate(path, 0)
    assert logits(session, copy) == expected


def test_a_file_that_changed_after_it_was_verified_is_refused(copy: Bundle) -> None:
    for file in ("encoder.int8.onnx", "heads/qa.onnx", *(f for f in copy.manifest.sha256 if f.endswith(".bin"))):
        path = copy.directory / file
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(BundleError, match=f"{file} has SHA-256"):
            Session(copy)
        path.unlink()
        with pytest.raises(BundleError, match=rf"{file} cannot be read \(No such file"):
            Session(copy)
        path.write_bytes(before)
    Session(copy)


def test_a_private_copy_leaves_no_file(copy: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    with copy.open():
        (private,) = place.iterdir()
        assert private.stat().st_mode & 0o077 == 0, "nobody else may write there"
    session = Session(copy)
    assert list(place.iterdir()) == []
    assert "(deleted)" in Path("/proc/self/maps").read_text(), "sessions share one map of the constants"
    assert logits(session, copy)


def test_without_room_for_a_copy_the_answers_are_the_same(copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(Session(copy), copy)
    monkeypatch.setattr(contents, "FREE", 1e18)
    with copy.open() as opened:
        assert isinstance(opened.graph("heads/qa.onnx").constants, dict)
    assert logits(Session(copy, wide_threads=2), copy) == expected


def test_a_place_that_cannot_be_written_is_passed_over(copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(Session(copy), copy)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("models.contents.tempfile.TemporaryDirectory", full)
    assert logits(Session(copy), copy) == expected


def test_constants_are_never_taken_from_the_working_directory(copy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ONNX Runtime looks for what a graph that is given as bytes refers to."""
    monkeypatch.chdir(copy.directory)
    encoder = Contents(copy.directory, {f: h for f, h in copy.manifest.sha256.items() if not f.endswith(".bin")})
    for number in (contents.FREE, 1e18):
        monkeypatch.setattr(contents, "FREE", number)
        with encoder as opened, pytest.raises(BundleError, match="is not an ONNX graph that loads"):
            open_graph(opened.graph("encoder.int8.onnx"))


def test_one_digest_tells_bundles_apart(original: Bundle, tokenizer: Tokenizer, tmp_path: Path) -> None:
    options = ExportOptions("tiny", "9.9.9", precisions=("int8",), budget=bundles.ANY_LOSS)
    other = export(bundles.checkpoint(tokenizer), tmp_path / "other", options)
    assert original.digest == read_bundle(original.directory).digest != other.digest
