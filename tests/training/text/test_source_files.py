"""If these fail, a corpus uses files that changed while they were read, or somebody else's files are lost."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from tests.training.corpora import FIXTURES, build, write_documents
from training.errors import DataError, TrainingError
from training.text.corpus import Corpus, read_manifest
from training.text.corpus_builder import build_corpus
from training.text.corpus_writer import Writer
from training.text.vocabulary import train_vocabulary

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
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 3)
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
    with pytest.raises(DataError, match="is not part of a corpus and would be removed; move it, or name another --out"):
        build(source, tmp_path / "corpus")
    assert mine.read_text() == "mine"


def test_work_that_lost_a_file_is_not_filled_up_with_zeros(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 3)
    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        build(source, tmp_path / "corpus")
    (tmp_path / "corpus.partial" / "train.tokens.raw").unlink()
    with pytest.raises(TrainingError, match=r"train\.tokens\.raw has 0 bytes, expected [\d,]+ or more; remove"):
        build(source, tmp_path / "corpus")


# ---- folders, pipes, equal files -------------------------------------------------------------------------------------


def test_a_folder_of_thousands_of_files_is_read_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every tenth text comes twice; what is hidden, or of another kind, is left out."""
    folder = tmp_path / "folder"
    for part in range(30):
        (folder / f"{part:02}").mkdir(parents=True)
        for number in range(100):
            text = f"The cat sees {part} {number // 2 * 2 if number % 10 == 1 else number}. The dog runs.\n"
            (folder / f"{part:02}" / f"{number:03}.txt").write_text(text)
    (folder / ".git").mkdir()
    for name in (".git/x.txt", ".hidden.txt", "picture.png"):
        (folder / name).write_text("hidden")
    build(folder, tmp_path / "corpus")
    sources: Any = read_manifest(tmp_path / "corpus")["sources"]
    assert len(Corpus(tmp_path / "corpus")) == len(sources) == 2700
    assert list(sources) == sorted(sources) and not any("hidden" in name for name in sources)
    told = capsys.readouterr().err
    assert "300 of the files equal another one, and are read once" in told and " and 290 more" in told
    assert "and 2,990 more; skipped .hidden.txt, picture.png" in told


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_what_comes_through_a_pipe_is_read_as_what_it_is(kind: str, tmp_path: Path) -> None:
    texts = [f"The cat sees {number}. The dog runs." for number in range(6)]
    plain = tmp_path / f"plain.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), plain)
    else:
        plain.write_text("\n\n".join(texts if kind == "txt" else [json.dumps({"text": text}) for text in texts]))
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = Thread(target=lambda: pipe.write_bytes(plain.read_bytes()))
    writer.start()
    found, expected = build(pipe, tmp_path / "one"), build(plain, tmp_path / "two")
    writer.join()
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["one", "pipe", plain.name, "two"])


def test_standard_input_is_read_by_its_name_or_a_dash(tmp_path: Path) -> None:
    text = "The cat sees one. The dog runs.\n\nThe cat sees two. The dog runs.\n\n" * 3
    command = [sys.executable, "-m", "training", "corpus", "--tokenizer", str(FIXTURES), "--workers", "1", "--out"]
    runs = [("-", "dash", None), ("/dev/stdin", "name", None), ("-", "file", "text.txt")]
    (tmp_path / "text.txt").write_text(text)
    for given, out, file in runs:
        words = [*command, str(tmp_path / out), given]
        with open(tmp_path / "text.txt") as opened:
            source: Any = {"stdin": opened} if file else {"input": text}
            done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, **source)
        assert done.returncode == 0, done.stderr
        assert "train: 6 documents" in done.stdout and "4 documents (66.7%) repeat an earlier one" in done.stdout


def test_pipes_that_cannot_serve_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(pipe := tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"pipe\.jsonl is named twice, but a pipe can be read once"):
        build_corpus([pipe, pipe], FIXTURES, tmp_path / "out", held_out=0.0, limit=None, workers=1)
    writer = Thread(target=lambda: pipe.write_bytes(gzip.compress(b"text")))
    writer.start()
    with pytest.raises(DataError, match=r"is compressed, expected plain text; unpack it with: gzip -dc FILE \| …"):
        build(pipe, tmp_path / "out")
    writer.join()
    monkeypatch.setattr("training.text.source_files.STDIN", Path("/dev/null"))  # as a terminal, a character device
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(DataError, match="standard input is a terminal, expected a pipe or a file"):
        build(Path("-"), tmp_path / "out")


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("text.txt/corpus", "text.txt is a file, expected a folder for corpus; name another place"),
        ("there", "there exists; remove it"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_text_is_read(
    out: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("The cat runs.")
    (tmp_path / "there").mkdir()
    monkeypatch.setattr("training.text.documents.rows_of", lambda *_: 1 / 0)
    for make in (
        lambda: build(tmp_path / "text.txt", tmp_path / out),
        lambda: train_vocabulary([tmp_path / "text.txt"], tmp_path / out, 200),
    ):
        with pytest.raises(DataError, match=words):
            make()
