"""If these fail, text is lost between documents and the corpus, counts are wrong, or half a corpus is accepted."""

import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import zstandard

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES, build, small_corpus, write_documents
from tests.training.scoring.runs import children
from training.errors import DataError, TrainingError
from training.pretraining.next_sentence import sample_runs
from training.run.atomic_files import alone, hash_of
from training.text.corpus import Corpus, read_manifest
from training.text.corpus_builder import build_corpus, cut
from training.text.corpus_writer import Writer
from training.text.documents import bounded
from training.text.held_out import is_held_out
from training.text.vocabulary import train_vocabulary

ROOT = Path(__file__).parents[3]


def test_every_token_of_the_text_arrives_in_order(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpus = Corpus(small_corpus(tmp_path, documents=5, sentences=7, held_out=0.0))
    texts = [json.loads(line)["text"] for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    expected = [i for text in texts for i in tokenizer.encode_ids([text])[0]]
    assert corpus.tokens.tolist() == expected
    assert len(corpus) == 5
    assert np.diff(corpus.documents).tolist() == [7] * 5


def test_the_held_out_part_shares_no_document(tmp_path: Path) -> None:
    out = small_corpus(tmp_path, documents=12, held_out=0.25)
    train, validation = Corpus(out), Corpus(out, "validation")
    assert (len(train), len(validation)) == (9, 3)
    parts = read_manifest(out)["parts"]
    assert isinstance(parts, dict)
    assert parts["train"]["tokens"] == len(train.tokens)
    assert parts["validation"]["sentences"] == len(validation.sentences) - 1


def test_workers_change_nothing(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    outs = [tmp_path / "one", tmp_path / "two"]
    for out, workers in zip(outs, (1, 2), strict=True):
        build_corpus([source], FIXTURES, out, held_out=0.1, limit=None, workers=workers)
    for name in ("train.tokens.npy", "train.sentences.npy", "validation.documents.npy", "manifest.json"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_a_line_break_ends_a_sentence_and_long_ones_are_cut_not_lost(tokenizer: Tokenizer) -> None:
    sentences = cut(tokenizer.words(1000), "The cat\nthe dog. The man.\n\n" + "cat " * 1200)
    assert sentences.lengths.tolist() == [2, 3, 3, 512, 512, 176]
    assert sentences.ids.tolist() == tokenizer.encode_ids(["The cat the dog. The man. " + "cat " * 1200])[0]


def test_a_corpus_that_exists_or_is_missing_is_named(tmp_path: Path) -> None:
    out = small_corpus(tmp_path)
    with pytest.raises(DataError, match="exists; remove it"):
        build_corpus([tmp_path / "documents.jsonl"], FIXTURES, out, held_out=0.1, limit=None, workers=1)
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        Corpus(tmp_path / "nowhere")
    (out / "train.tokens.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"train\.tokens\.npy cannot be read"):
        Corpus(out)


@pytest.mark.parametrize("suffix", [".txt", ".txt.gz", ".parquet", ".jsonl.zst"])
def test_the_form_of_a_file_changes_nothing(suffix: str, tmp_path: Path) -> None:
    plain = write_documents(tmp_path / "documents.jsonl", 8, 5)
    texts = [json.loads(line)["text"] for line in plain.read_text().splitlines()]
    other = tmp_path / f"documents{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"id": range(8), "text": texts}), other)
    elif suffix == ".jsonl.zst":
        other.write_bytes(zstandard.compress(plain.read_bytes()))
    else:
        raw = "\n\n\n".join(texts).encode()
        other.write_bytes(gzip.compress(raw) if suffix.endswith(".gz") else raw)
    corpora = [build(path, tmp_path / path.suffix.strip(".")) for path in (plain, other)]
    for name in ("tokens", "sentences", "documents"):
        assert np.array_equal(getattr(corpora[0], name), getattr(corpora[1], name))


def test_what_is_no_document_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"title": ["a"]}), wrong)
    with pytest.raises(DataError, match="no column is known as text among title; name it with --columns text=COLUMN"):
        build(wrong, tmp_path / "corpus")
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"]], names=["text", "text"]), wrong)
    with pytest.raises(DataError, match="two columns are named 'text', expected different names"):
        build(wrong, tmp_path / "corpus")
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2]}), wrong)
    with pytest.raises(DataError, match='row 1: "text" is the number 1, expected a string'):
        build(wrong, tmp_path / "corpus")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a. b.", None]}), wrong)
    with pytest.raises(DataError, match='row 2: "text" is null, expected a string'):
        build(wrong, tmp_path / "corpus")
    wrong.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a complete Parquet file"):
        build(wrong, tmp_path / "corpus")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match=r"bad\.txt:2: byte 0 is 0xff"):
        build(bad, tmp_path / "corpus")


@pytest.mark.parametrize("stop", [3, 7, 19])
def test_an_interrupted_corpus_continues_to_the_same_bytes(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 3)
    arguments: dict[str, Any] = {"held_out": 0.2, "limit": None, "workers": 1}
    build_corpus([source], FIXTURES, tmp_path / "whole", **arguments)
    added: list[int] = []
    add = Writer.add

    def add_until(self: Writer, sentences: Any) -> None:
        add(self, sentences)
        added.append(len(sentences.lengths))
        if len(added) == stop:
            raise KeyboardInterrupt

    monkeypatch.setattr(Writer, "add", add_until)
    with pytest.raises(KeyboardInterrupt):
        build_corpus([source], FIXTURES, tmp_path / "parts", **arguments)
    build_corpus([source], FIXTURES, tmp_path / "parts", **arguments)
    assert len(added) - stop == 20 - (stop - 1) // 3 * 3  # what was noted was not done again
    names = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file())
    assert len(names) == 10
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_work_that_was_begun_for_other_text_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 1)
    source = write_documents(tmp_path / "documents.jsonl", 5, 5)
    source.write_text(source.read_text() + "broken\n")
    with pytest.raises(DataError, match=r"documents\.jsonl:6"):
        build(source, tmp_path / "corpus")
    write_documents(source, 4, 3, seed=1)
    assert len(build(source, tmp_path / "corpus")) == 4


def test_the_same_files_in_another_order_are_other_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for year in ("2023", "2024"):
        (tmp_path / year).mkdir()
    files = [write_documents(tmp_path / year / "text.jsonl", 6, 3, int(year)) for year in ("2023", "2024")]
    monkeypatch.setattr("training.text.corpus_work.COMMITTED", 1)
    build = partial(build_corpus, tokenizer=FIXTURES, held_out=0.0, limit=None, workers=1)
    with monkeypatch.context() as patched:
        patched.setattr(Writer, "finish", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(files, out=tmp_path / "corpus")
    build(files[::-1], out=tmp_path / "corpus")
    build(files[::-1], out=tmp_path / "anew")
    for name in ("train.tokens.npy", "manifest.json"):
        assert (tmp_path / "corpus" / name).read_bytes() == (tmp_path / "anew" / name).read_bytes()
    sources = read_manifest(tmp_path / "anew")["sources"]
    assert isinstance(sources, dict) and list(sources) == [str(file) for file in files[::-1]]
    with pytest.raises(DataError, match="held_out is 5, expected a share from 0 to 0.5"):
        build(files, out=tmp_path / "percent", held_out=5)


def test_the_same_text_under_two_names_is_read_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Otherwise its sentences would be those of another document to themselves."""
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    (tmp_path / "link.jsonl").symlink_to(source)
    files = [source, tmp_path / "link.jsonl", source]
    counts = build_corpus(files, FIXTURES, tmp_path / "corpus", held_out=0.0, limit=None, workers=1)
    assert counts["train"].documents == 6 and counts["train"].duplicates == 0
    assert read_manifest(tmp_path / "corpus")["sources"] == {"documents.jsonl": hash_of(source)}
    told = capsys.readouterr().err
    assert f"2 of the files equal another one, and are read once: {files[1]} as {source}, {source} as" in told


@pytest.mark.parametrize(("changes", "words"), [({"limit": 0}, "limit is 0"), ({"workers": 0}, "workers is 0")])
def test_numbers_that_mean_nothing_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    arguments = {"held_out": 0.0, "limit": None, "workers": 1} | changes
    with pytest.raises(DataError, match=f"{words}, expected 1 or more"):
        build_corpus([source], FIXTURES, tmp_path / "corpus", **arguments)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.3, 0.4, 0.5])
def test_as_many_documents_are_held_out_as_were_asked_for(share: float) -> None:
    held = [number for number in range(1, 1001) if is_held_out(number, share)]
    assert len(held) == round(1000 * share)
    gaps = np.diff(held)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_documents_of_one_sentence_serve_where_no_next_one_is_asked_for(tmp_path: Path) -> None:
    source = tmp_path / "phrases.txt"
    source.write_text("\n\n".join(["The cat runs", "the dog eats", "a small house"]))
    arguments: dict[str, Any] = {"held_out": 0.0, "limit": None, "workers": 1}
    with pytest.raises(DataError, match="3 of 3 documents have one sentence, .* or --no-nsp, for pretraining with nsp"):
        build_corpus([source], FIXTURES, tmp_path / "corpus", **arguments)
    build_corpus([source], FIXTURES, tmp_path / "corpus", nsp=False, **arguments)
    assert len(Corpus(tmp_path / "corpus")) == 3
    assert len(sample_runs(Corpus(tmp_path / "corpus"), 16, seed=0, epoch=0))


def test_a_very_long_line_is_cut_at_blanks_and_all_of_it_arrives(tokenizer: Tokenizer) -> None:
    text = "the cat runs. " * 30_000
    sentences = cut(tokenizer.words(1000), text)
    assert sentences.ids.tolist() == tokenizer.encode_ids(["the cat runs."])[0] * 30_000
    assert "".join(bounded("x" * 300_000)) == "x" * 300_000


def test_text_without_blank_lines_is_named_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.text.formats.text_file.MAX_DOCUMENT", 50)
    source = tmp_path / "novel.txt"
    source.write_text("The cat runs.\n" * 10)
    with pytest.raises(DataError, match=r"novel\.txt:4: 52 characters without a blank line, expected one after each"):
        build(source, tmp_path / "corpus")


def test_what_somebody_else_keeps_where_work_goes_is_not_removed(tmp_path: Path) -> None:
    mine = tmp_path / "corpus.partial" / "notes.md"
    mine.parent.mkdir()
    mine.write_text("mine")
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    with pytest.raises(DataError, match=r"notes\.md is not part of a corpus and would be removed; move it"):
        build(source, tmp_path / "corpus")
    assert mine.read_text() == "mine"


def test_two_commands_do_not_write_one_corpus(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 6, 3)
    with alone(tmp_path / "corpus.partial"), pytest.raises(TrainingError, match="written by another process"):
        build(source, tmp_path / "corpus")
    assert len(build(source, tmp_path / "corpus")) == 6


@pytest.mark.slow
def test_a_killed_process_ends_the_command_which_continues_later(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 8_000, 6)
    options = ["--tokenizer", str(FIXTURES), "--out", str(tmp_path / "corpus"), "--workers", "2"]
    command = [sys.executable, "-m", "training", "corpus", str(source), *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        progress = tmp_path / "corpus.partial" / "progress.jsonl"
        wait_for(lambda: progress.exists() and progress.read_bytes().count(b"documents") > 1)
        os.kill(workers_of(running.pid)[0], signal.SIGKILL)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "one of 2 processes was killed" in said.splitlines()[-1]
    build_corpus([source], FIXTURES, tmp_path / "whole", held_out=0.01, limit=None, workers=1)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for name in ("train.tokens.npy", "train.sentences.npy", "validation.documents.npy", "manifest.json"):
        assert (tmp_path / "corpus" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_ends_the_command_with_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 1500, 4)
    options = ["--tokenizer", str(FIXTURES), "--out", str(tmp_path / "corpus"), "--workers", "1"]
    command = [sys.executable, "-m", "training", "corpus", str(source), *options]
    build_corpus([source], FIXTURES, tmp_path / "whole", held_out=0.01, limit=None, workers=1)
    most = (tmp_path / "whole" / "train.tokens.npy").stat().st_size - 64  # room for the ids, not for the array
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=limit)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in failed.stderr
    assert not (tmp_path / "corpus").exists()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    for path in (tmp_path / "whole").glob("*.npy"):
        assert (tmp_path / "corpus" / path.name).read_bytes() == path.read_bytes()


def workers_of(process: int) -> list[int]:
    """Return the processes that cut the text, without the one that tracks their resources."""
    found = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children(process)}
    return [child for child, command in found.items() if "spawn_main" in command]


def wait_for(there: Callable[[], object]) -> None:
    for _ in range(6000):
        if there():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come within a minute")


def test_a_vocabulary_of_another_script_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "greek.txt"
    source.write_text("\n\n".join(["Η γάτα τρέχει. Ο σκύλος τρώει."] * 5))
    with pytest.raises(DataError, match="of the tokens are unknown to the vocabulary, expected at most 30%"):
        build(source, tmp_path / "corpus")


def test_a_corpus_is_refused_by_another_vocabulary(tmp_path: Path, tokenizer: Tokenizer) -> None:
    corpus = build(write_documents(tmp_path / "documents.jsonl", 8, 5), tmp_path / "corpus")
    corpus.check_vocabulary(tokenizer)
    corpus.check_vocabulary(Tokenizer.read(tmp_path / "corpus" / "tokenizer"))
    other = train_vocabulary([tmp_path / "documents.jsonl"], tmp_path / "vocabulary", 200, True)
    with pytest.raises(DataError, match="was tokenized by vocabulary .*…, expected the checkpoint.s .*…"):
        corpus.check_vocabulary(other)


def test_a_broken_line_is_named_and_nothing_half_done_stays_as_a_corpus(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 3, 3)
    source.write_text(source.read_text() + '{"title": null, "source": "x", "text": 5}\n')
    with pytest.raises(DataError, match=r"documents\.jsonl:4"):
        build_corpus([source], FIXTURES, tmp_path / "corpus", held_out=0.1, limit=None, workers=1)
    assert not (tmp_path / "corpus").exists()
