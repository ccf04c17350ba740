"""What would break: text lost between documents and the corpus, counts that lie, or a corpus that is half written."""

import gzip
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import zstandard

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES, small_corpus, write_documents
from training.corpus import Corpus, read_manifest
from training.corpus_builder import Writer, build_corpus, cut
from training.errors import DataError
from training.vocabulary import train_vocabulary


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
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
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


def build(source: Path, out: Path, workers: int = 1) -> Corpus:
    build_corpus([source], FIXTURES, out, held_out=0.0, limit=None, workers=workers)
    return Corpus(out)


def test_what_is_no_document_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": ["a"]}), wrong)
    with pytest.raises(DataError, match='has the columns body, expected one named "text"'):
        build(wrong, tmp_path / "corpus")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a. b.", None]}), wrong)
    with pytest.raises(DataError, match="row 2 has null for its text"):
        build(wrong, tmp_path / "corpus")
    wrong.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="no whole Parquet file"):
        build(wrong, tmp_path / "corpus")
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"good\n\xff\n")
    with pytest.raises(DataError, match=r"bad\.txt:2: byte 0 is 0xff"):
        build(bad, tmp_path / "corpus")


@pytest.mark.parametrize("stop", [3, 7, 19])
def test_an_interrupted_corpus_goes_on_and_ends_in_the_same_bytes(
    stop: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 20, 5)
    monkeypatch.setattr("training.corpus_builder.COMMITTED", 3)
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


def test_what_was_begun_for_other_text_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.corpus_builder.COMMITTED", 1)
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
    monkeypatch.setattr("training.corpus_builder.COMMITTED", 1)
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
    with pytest.raises(DataError, match="is named twice"):
        build([files[0], files[0]], out=tmp_path / "twice")
    with pytest.raises(DataError, match="held_out is 5, expected a share from 0 to 0.5"):
        build(files, out=tmp_path / "percent", held_out=5)


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
    with pytest.raises(DataError, match="was cut by vocabulary .*…, expected .*… as the checkpoint has"):
        corpus.check_vocabulary(other)


def test_a_broken_line_is_named_and_nothing_half_done_stays_as_a_corpus(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 3, 3)
    source.write_text(source.read_text() + '{"title": null, "source": "x", "text": 5}\n')
    with pytest.raises(DataError, match=r"documents\.jsonl:4"):
        build_corpus([source], FIXTURES, tmp_path / "corpus", held_out=0.1, limit=None, workers=1)
    assert not (tmp_path / "corpus").exists()
