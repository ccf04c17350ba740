"""If these fail, a GPU that computes wrong results is accepted, or a good one is refused."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, read_bundle, seal
from models.errors import BundleError
from models.manifest import PROBE
from models.probe import MAX_WIDTH, Probe, ProbeRow, read_probe
from models.session import Session
from models.task import Logits
from models.tokenizer import Tokenizer
from service.heads import renamed
from tests.models import bundles


@pytest.fixture(scope="module")
def bundle(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.make(tokenizer, tmp_path_factory.mktemp("bundle") / "tiny", ("int8", "fp16"))


def probe_of(bundle: Bundle) -> Probe:
    with bundle.open() as contents:
        probe = read_probe(contents)
    assert probe
    return probe


def test_every_head_has_rows_of_all_lengths(bundle: Bundle) -> None:
    probe = probe_of(bundle)
    files = {head.file for head in bundle.manifest.heads.values()}
    assert {row.head for row in probe.rows} == files
    for file in files:
        lengths = [len(row.input_ids) for row in probe.rows if row.head == file]
        assert min(lengths) == 3 and max(lengths) == bundle.manifest.encoder.max_length
    assert all(len(row.logits) == len(row.positions) for row in probe.rows)
    assert all(len(logits) <= MAX_WIDTH for row in probe.rows for logits in row.logits)


def test_what_computes_the_graph_is_accepted(bundle: Bundle) -> None:
    Session(bundle, precision="fp16")._try(probe_of(bundle), bundle)


def test_heads_that_were_renamed_are_found(bundle: Bundle) -> None:
    other = renamed(bundle, {"tiny:ner": "entities"})
    Session(other, precision="fp16")._try(probe_of(other), other)


@pytest.mark.parametrize("wrong", [np.zeros_like, np.negative, lambda a: a * np.nan, lambda a: a + 0.5])
def test_what_computes_something_else_is_refused(bundle: Bundle, wrong: Any) -> None:
    session = Session(bundle, precision="fp16")
    probe = probe_of(bundle)
    names = {head.file: name for name, head in bundle.manifest.heads.items()}
    right = session.run([(names[each.head], each.row) for each in probe.rows])
    with pytest.raises(BundleError, match=r"^here: logits of heads/.* are off by .*expected at most .*--provider cpu"):
        probe.check(lambda rows: [wrong(logits) for logits in right], "here")


def given(answers: list[Logits], rows: Sequence[ProbeRow]) -> list[Logits]:
    return answers


def test_an_error_in_one_head_alone_is_found(bundle: Bundle) -> None:
    probe, session = probe_of(bundle), Session(bundle, precision="fp16")
    names = {head.file: name for name, head in bundle.manifest.heads.items()}
    right = session.run([(names[each.head], each.row) for each in probe.rows])
    for file in names:
        answers = [each[::-1] * -1 if row.head == file else each for row, each in zip(probe.rows, right, strict=True)]
        with pytest.raises(BundleError, match=f"logits of {file} "):
            probe.check(partial(given, answers), "here")


def test_a_bundle_without_rows(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Older ones, and those for CPU alone, are served with a warning."""
    copy = shutil.copytree(bundle.directory, tmp_path / "copy")
    (copy / PROBE).unlink()
    seal(copy, bundle.manifest)
    with read_bundle(copy).open() as contents:
        assert read_probe(contents) is None
    assert "has no probe.json" in caplog.text


@pytest.mark.parametrize("contents", ["", "[]", '{"rows": [{"head": 1}]}'])
def test_rows_that_cannot_be_read(bundle: Bundle, tmp_path: Path, contents: str) -> None:
    copy = shutil.copytree(bundle.directory, tmp_path / "copy")
    (copy / PROBE).write_text(contents)
    seal(copy, bundle.manifest)
    with read_bundle(copy).open() as opened, pytest.raises(BundleError, match=r"probe\.json"):
        read_probe(opened)


def test_int8_alone_has_no_rows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    assert PROBE not in bundles.make(tokenizer, tmp_path / "tiny", ("int8",)).manifest.sha256
