"""What would break: a corpus of files that changed while they were read, or somebody else's files that are lost."""

from pathlib import Path
from typing import Any

import pytest

from tests.training.corpora import build, write_documents
from training.errors import DataError, TrainingError
from training.text.corpus_writer import Writer

ROOT = Path(__file__).parents[3]


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf8") as file:
        file.write(text)


@pytest.mark.parametrize("added", ['{"text": "One more. And one."}\n', '{"text": "cut o'])
def test_a_file_that_grows_while_it_is_read_is_refused_and_read_again(
    added: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    before = source.read_bytes()
    monkeypatch.setattr("training.text.corpus_builder.COMMITTED", 3)
    add, seen = Writer.add, []

    def add_and_append(self: Writer, sentences: Any) -> None:
        add(self, sentences)
        seen.append(1)
        if len(seen) == 8:
            append(source, added)

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "add", add_and_append)
        with pytest.raises(
            DataError, match=r"documents\.jsonl changed while it was read .*, expected a file that noth"
        ):
            build(source, tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
    source.write_bytes(before)
    assert len(build(source, tmp_path / "corpus")) == 20
    build(source, tmp_path / "whole")
    assert (tmp_path / "corpus" / "train.tokens.npy").read_bytes() == (
        tmp_path / "whole" / "train.tokens.npy"
    ).read_bytes()


@pytest.mark.parametrize("name", ["train.jsonl", "validation.csv", "progress.txt", "tokenizer", "tokenizer/mine.txt"])
def test_files_of_others_with_names_like_those_of_a_corpus_stay(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "corpus.partial" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    with pytest.raises(DataError, match="is not of a corpus, but would be removed; move it, or name another --out"):
        build(source, tmp_path / "corpus")
    assert mine.read_text() == "mine"


def test_work_that_lost_a_file_is_not_filled_up_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    monkeypatch.setattr("training.text.corpus_builder.COMMITTED", 3)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        build(source, tmp_path / "corpus")
    (tmp_path / "corpus.partial" / "train.tokens.raw").unlink()
    with pytest.raises(TrainingError, match=r"train\.tokens\.raw has 0 bytes, expected [\d,]+ or more; remove"):
        build(source, tmp_path / "corpus")
