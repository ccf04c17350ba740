"""What would break: text lost between documents and the corpus, counts that lie, or a corpus that is half written."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES, small_corpus, write_documents
from training.corpus import Corpus, build_corpus, cut, read_manifest
from training.errors import DataError


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
    sentences = cut(tokenizer, "The cat\nthe dog. The man.\n\n" + "cat " * 1200)
    assert [len(sentence) for sentence in sentences] == [2, 3, 3, 512, 512, 176]


def test_a_corpus_that_exists_or_is_missing_is_named(tmp_path: Path) -> None:
    out = small_corpus(tmp_path)
    with pytest.raises(DataError, match="exists; remove it"):
        build_corpus([tmp_path / "documents.jsonl"], FIXTURES, out, held_out=0.1, limit=None, workers=1)
    with pytest.raises(DataError, match=r"holds no manifest\.json"):
        Corpus(tmp_path / "nowhere")
    (out / "train.tokens.npy").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"train\.tokens\.npy cannot be read"):
        Corpus(out)


def test_a_broken_line_is_named_and_nothing_half_done_stays_as_a_corpus(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "documents.jsonl", 3, 3)
    source.write_text(source.read_text() + '{"title": null, "source": "x", "text": 5}\n')
    with pytest.raises(DataError, match=r"documents\.jsonl:4"):
        build_corpus([source], FIXTURES, tmp_path / "corpus", held_out=0.1, limit=None, workers=1)
    assert not (tmp_path / "corpus").exists()
