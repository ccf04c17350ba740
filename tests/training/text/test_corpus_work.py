"""If these fail, one corrected row makes a corpus start again, or a continued corpus differs from a whole one."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.training.corpora import FIXTURES, write_documents
from training.errors import DataError
from training.text.corpus_builder import build_corpus
from training.text.corpus_writer import Writer
from training.text.documents import Reading

BUILD = partial(build_corpus, tokenizer=FIXTURES, held_out=0.2, limit=None, workers=1)


@pytest.fixture(autouse=True)
def committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 3)


def added(monkeypatch: pytest.MonkeyPatch, build: Callable[[], object]) -> int:
    """How many documents are written by `build`."""
    count, add = [0], Writer.add

    def add_and_count(self: Writer, sentences: object) -> None:
        count[0] += 1
        add(self, sentences)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "add", add_and_count)
        build()
    return count[0]


def assert_alike(first: Path, second: Path) -> None:
    names = sorted(path.name for path in first.iterdir() if path.is_file())
    assert names == sorted(path.name for path in second.iterdir() if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_row_was_corrected_the_work_before_it_is_kept(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 40, 5)
    whole = source.read_text()
    source.write_text(whole.replace('"text": "', '"text": 5, "x": "').replace('"text": 5, "x": "', '"text": "', 25))
    with pytest.raises(DataError, match=r"documents\.jsonl:26: .*is the number 5"):
        BUILD([source], out=tmp_path / "parts", workers=1)
    noted = (tmp_path / "parts.partial" / "progress.jsonl").read_text().splitlines()
    assert json.loads(noted[-1])["documents"] == 24
    source.write_text(whole)
    if workers == 1:
        assert added(monkeypatch, lambda: BUILD([source], out=tmp_path / "parts")) == 16
    else:
        BUILD([source], out=tmp_path / "parts", workers=workers)
    BUILD([source], out=tmp_path / "whole")
    assert_alike(tmp_path / "whole", tmp_path / "parts")


def test_work_is_kept_up_to_the_first_text_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tenth document of 20 is another now; of three commits before it, the first nine documents are kept."""
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        BUILD([source], out=tmp_path / "parts")
    lines = source.read_text().splitlines(True)
    lines[9] = json.dumps({"text": "The cat sees it. The dog runs."}) + "\n"
    source.write_text("".join(lines))
    assert added(monkeypatch, lambda: BUILD([source], out=tmp_path / "parts")) == 11
    BUILD([source], out=tmp_path / "whole")
    assert_alike(tmp_path / "whole", tmp_path / "parts")


def test_a_further_file_and_skipped_rows_keep_the_work_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (write_documents(tmp_path / name, 9, 5, seed) for seed, name in enumerate(("a.jsonl", "b.jsonl")))
    with second.open("a") as file:
        file.write("broken\n")
    with pytest.raises(DataError, match=r"b\.jsonl:10"):
        BUILD([first, second], out=tmp_path / "parts")
    further = write_documents(tmp_path / "c.jsonl", 4, 5, 7)
    rest = partial(BUILD, [first, second, further], reading=Reading(skip_broken=1))
    assert added(monkeypatch, lambda: rest(out=tmp_path / "parts")) == 4
    rest(out=tmp_path / "whole")
    assert_alike(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("changed", [{"held_out": 0.5}, {"language": "de"}])
def test_work_by_other_rules_is_not_kept(
    changed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 9, 5)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        BUILD([source], out=tmp_path / "parts")
    assert added(monkeypatch, lambda: BUILD([source], out=tmp_path / "parts", **changed)) == 9  # type: ignore[arg-type]


def test_long_documents_are_committed_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 1000)
    monkeypatch.setattr("training.text.corpus_work.COMMITTED_CHARACTERS", 400)
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        BUILD([source], out=tmp_path / "parts")
    assert (tmp_path / "parts.partial" / "progress.jsonl").read_text().count("\n") > 4
