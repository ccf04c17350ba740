"""If these fail, counts do not match the text, or vectors do not match the counts."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.tokenizer import Tokenizer
from tests.training.corpora import FIXTURES, small_corpus
from tests.training.interrupts import stopped_after_saving
from training.errors import DataError
from training.pretraining.initial_weights import start
from training.pretraining.pretrain import pretrain
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.pretraining.word_vectors import (
    BLOCKS,
    DEVIATION,
    blocks_of,
    cooccurrences,
    embed_words,
    positive_information,
    word_vectors,
)
from training.text.corpus import BLOCK, Corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_corpus(tmp_path_factory.mktemp("words"), documents=40, sentences=30)


def test_counts_and_information_are_those_of_the_definition() -> None:
    """Against a pass over all pairs of positions, and the formula of Levy et al. in logarithms of probabilities."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 9, 60, np.uint16), rng.integers(0, 7, 3, np.uint16), np.array([4], np.uint16)]
    met: defaultdict[tuple[int, int], float] = defaultdict(float)
    for block in blocks:
        for i, token in enumerate(block.tolist()):
            for j, context in enumerate(block.tolist()):
                if 0 < abs(i - j) <= 5:
                    met[token, context] += 1 / abs(i - j)
    counts = cooccurrences(blocks, 10)
    assert counts.todense() == pytest.approx(np.array([[met[i, j] for j in range(10)] for i in range(10)]), rel=1e-5)

    total = sum(met.values())
    each = {i: sum(met[i, j] for j in range(10)) for i in range(10)}
    smoothed = sum(count**0.75 for count in each.values())
    information = positive_information(counts).todense()
    for i in range(10):
        for j in range(10):
            expected = 0.0
            if met[i, j] >= 1:
                joint, token, context = met[i, j] / total, each[i] / total, each[j] ** 0.75 / smoothed
                expected = max(0.0, math.log(joint) - math.log(token) - math.log(context))
            assert information[i, j] == pytest.approx(expected, abs=1e-5)


def test_vectors_are_the_largest_singular_directions(corpus: Path) -> None:
    """Against numpy's dense decomposition, by the products of vectors, which no turn and no sign changes."""
    text = Corpus(corpus)
    size = Tokenizer.read(FIXTURES).vocab_size
    information = positive_information(cooccurrences(blocks_of(text), size)).todense()
    left, values, _ = np.linalg.svd(information)
    expected = left[:, :6] * np.sqrt(values[:6])
    seen = text.token_counts(size) > 0
    expected = expected[seen] - expected[seen].mean(0)
    expected /= np.sqrt((expected**2).mean())
    vectors = word_vectors(text, size, 6).numpy()
    assert vectors[seen] @ vectors[seen].T == pytest.approx(expected @ expected.T, abs=1e-3)
    assert not vectors[~seen].any() and (~seen).any()


def test_words_of_like_contexts_lie_near_each_other(corpus: Path) -> None:
    """Of 30 words that follow each other in order, one is another word half of the time: those two are nearest."""
    rng = np.random.default_rng(0)
    tokens = np.tile(np.arange(30, dtype=np.uint16), 400)
    tokens[(tokens == 5) & (rng.random(len(tokens)) < 0.5)] = 40
    text = Corpus(corpus)
    text.tokens = tokens
    vectors = torch.nn.functional.normalize(word_vectors(text, 50, 16), dim=1)
    assert (vectors @ vectors[5]).topk(2).indices.tolist() == [5, 40]


def test_a_vocabulary_smaller_than_the_width_has_vectors_too(corpus: Path) -> None:
    size = Tokenizer.read(FIXTURES).vocab_size
    vectors = word_vectors(Corpus(corpus), size, size + 5)
    assert vectors.shape == (size, size + 5)
    assert torch.isfinite(vectors).all() and not vectors[:, size:].any() and vectors[:, : size - 1].any()


def test_a_corpus_that_tells_nothing_is_refused(corpus: Path) -> None:
    text = Corpus(corpus)
    text.tokens = np.array([7, 7, 7], np.uint16)
    with pytest.raises(DataError, match="no two tokens that occur together more often.*word_vectors = false"):
        word_vectors(text, 50, 16)
    text.tokens = np.array([3, 4, 3, 4], np.uint16)  # a single pair tells something
    assert torch.isfinite(word_vectors(text, 50, 16)).all()


def test_a_large_corpus_is_counted_in_evenly_spread_blocks(corpus: Path) -> None:
    text = Corpus(corpus)
    text.tokens = np.broadcast_to(np.uint16(3), BLOCK * 3 * BLOCKS + 1)
    blocks = list(blocks_of(text))
    assert [len(block) for block in blocks] == [BLOCK] * (BLOCKS - 1) + [1]
    text.tokens = np.arange(2 * BLOCK + 5)
    assert np.array_equal(np.concatenate(list(blocks_of(text))), text.tokens)


def recipe(corpus: Path, **changes: Any) -> PretrainRecipe:
    small: dict[str, Any] = {
        "layers": 2, "width": 32, "attention_heads": 2, "batch_size": 8, "max_length": 48, "steps": 10, "rate": 2e-3,
        "dropout": 0.0, "threads": 1, "evaluate_every": 1000, "save_every": 4, "word_vectors": True,
    }  # fmt: skip
    return PretrainRecipe(corpus=str(corpus), **(small | changes))


def test_an_embedding_begins_at_them_and_what_is_unseen_stays_as_drawn(corpus: Path) -> None:
    torch.manual_seed(0)
    encoder = start(recipe(corpus)).encoder
    table = encoder.embeddings.word.weight
    drawn = table.detach().clone()
    embed_words(encoder, Corpus(corpus))
    vectors = word_vectors(Corpus(corpus), *table.shape)
    seen = vectors.any(1)
    assert torch.allclose(table[seen], DEVIATION * vectors[seen], atol=1e-6)
    assert torch.equal(table[~seen], drawn[~seen]) and not seen.all()


def test_a_run_that_goes_on_does_not_begin_at_them_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(recipe(corpus), tmp_path / "whole")
    with stopped_after_saving():
        pretrain(recipe(corpus), tmp_path / "stopped")
    monkeypatch.setattr("training.pretraining.initial_weights.embed_words", lambda *_: pytest.fail("counted again"))
    resumed = pretrain(recipe(corpus), tmp_path / "stopped")
    for mine, theirs in zip(resumed.encoder.parameters(), whole.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_who_has_a_base_or_a_teacher_is_told_that_they_are_not_read(corpus: Path) -> None:
    assert recipe(corpus).unread == []
    assert recipe(corpus, base="b").unread == recipe(corpus, teacher="t").unread == ["word_vectors"]
