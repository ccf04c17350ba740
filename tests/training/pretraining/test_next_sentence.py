"""If these fail, a true next sentence is labeled random, labels are unbalanced, or pairs depend on each other."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.corpora import small_corpus
from training.errors import DataError
from training.pretraining.next_sentence import NEXT, RANDOM, Pair, sample_pairs, sample_runs, truncate_pair
from training.text.corpus import Corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(small_corpus(tmp_path_factory.mktemp("pairs"), documents=80, sentences=60, held_out=0.0))


def document_of(corpus: Corpus, token: int) -> int:
    return int(np.searchsorted(corpus.sentences[corpus.documents], token, side="right")) - 1


def test_random_comes_from_another_document_and_next_follows(corpus: Corpus) -> None:
    pairs = sample_pairs(corpus, 64, seed=3, epoch=0)
    for pair in (Pair(*row) for row in pairs.tolist()):
        if pair.label == NEXT:
            assert pair.b_start == pair.a_end
            assert document_of(corpus, pair.a_start) == document_of(corpus, pair.b_end - 1)
        else:
            assert document_of(corpus, pair.a_start) != document_of(corpus, pair.b_start)
        assert pair.a_start < pair.a_end and pair.b_start < pair.b_end


def test_labels_are_balanced(corpus: Corpus) -> None:
    labels = np.concatenate([sample_pairs(corpus, 64, seed=3, epoch=epoch)[:, 4] for epoch in range(4)])
    assert len(labels) > 1500
    assert labels.mean() == pytest.approx(0.5, abs=3 * 0.5 / len(labels) ** 0.5)
    assert set(labels.tolist()) == {NEXT, RANDOM}


def test_segments_are_whole_sentences(corpus: Corpus) -> None:
    edges = set(corpus.sentences.tolist())
    assert all({a, b, c, d} <= edges for a, b, c, d, _ in sample_pairs(corpus, 64, 0, 0).tolist())


def test_an_epoch_depends_on_seed_and_epoch_alone(corpus: Corpus) -> None:
    assert (sample_pairs(corpus, 64, 1, 2) == sample_pairs(corpus, 64, 1, 2)).all()
    assert not np.array_equal(sample_pairs(corpus, 64, 1, 2), sample_pairs(corpus, 64, 1, 3))
    assert not np.array_equal(sample_pairs(corpus, 64, 1, 2), sample_pairs(corpus, 64, 2, 2))


def test_most_of_the_text_is_used(corpus: Corpus) -> None:
    used = np.zeros(len(corpus.tokens), dtype=bool)
    for a_start, a_end, b_start, b_end, _ in sample_pairs(corpus, 64, 0, 0).tolist():
        used[a_start:a_end] = True
        used[b_start:b_end] = True
    assert used.mean() > 0.95


def test_runs_cover_every_document_once_and_never_cross_one(corpus: Corpus) -> None:
    runs = sample_runs(corpus, 64, 0, 0)
    used = np.zeros(len(corpus.tokens), dtype=int)
    for start, end, *_ in runs.tolist():
        assert 1 <= end - start <= 62
        assert document_of(corpus, start) == document_of(corpus, end - 1)
        used[start:end] += 1
    assert (used == 1).all()
    assert (runs[:, 1] - runs[:, 0] > 40).mean() > 0.7
    assert (runs == sample_runs(corpus, 64, 0, 0)).all()


def test_one_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 document\(s\) for training, expected 2 or more"):
        small_corpus(tmp_path, documents=1, held_out=0.0)


def test_documents_of_one_sentence_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="4 of 4 documents have one sentence"):
        small_corpus(tmp_path, documents=4, sentences=1, held_out=0.0)


@given(st.integers(1, 80), st.integers(1, 80), st.integers(2, 90), st.integers(0, 2**32))
def test_truncation_takes_from_the_longer_and_keeps_a_contiguous_part(a: int, b: int, room: int, seed: int) -> None:
    first, second = truncate_pair(np.arange(a), 1000 + np.arange(b), room, np.random.default_rng(seed))
    assert len(first) + len(second) == min(a + b, room)
    assert len(first) >= 1 and len(second) >= 1
    assert (np.diff(first) == 1).all() and (np.diff(second) == 1).all()
    if a + b > room:
        assert abs(len(first) - len(second)) <= max(1, abs(a - b) - (a + b - room))
