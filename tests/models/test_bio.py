"""If these fail, tags do not form spans, or are not the most likely ones that do."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.bio import Sequences

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def allowed(tags: tuple[str, ...]) -> bool:
    return all(
        not tag.startswith("I-") or before[2:] == tag[2:] for before, tag in zip(("O", *tags), tags, strict=False)
    )


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 1 << 32), words=st.integers(1, 5))
def test_no_allowed_sequence_is_likelier(seed: int, words: int) -> None:
    scores = np.random.default_rng(seed).dirichlet(np.full(len(LABELS), 0.5), words)
    found = tuple(LABELS[tag] for tag in Sequences(LABELS).best(scores))
    assert allowed(found)

    def likelihood(tags: tuple[str, ...]) -> float:
        return float(np.log(np.maximum([scores[i, LABELS.index(tag)] for i, tag in enumerate(tags)], 1e-300)).sum())

    best = max(likelihood(tags) for tags in product(LABELS, repeat=words) if allowed(tags))
    assert likelihood(found) == pytest.approx(best)


def test_a_beginning_that_is_weaker_by_itself_is_kept_for_its_span() -> None:
    scores = np.array([[0.45, 0.40, 0.05, 0.05, 0.05], [0.02, 0.03, 0.93, 0.01, 0.01]])
    assert [LABELS[tag] for tag in Sequences(LABELS).best(scores)] == ["B-PER", "I-PER"]


@pytest.mark.parametrize("labels", [["NOUN", "VERB"], ["O", "PER"], ["O", "I-PER"]])
def test_other_tags_are_the_likeliest_word_by_word(labels: list[str]) -> None:
    scores = np.array([[0.3, 0.7], [0.6, 0.4], [0.2, 0.8]])
    assert Sequences(labels).free
    assert Sequences(labels).best(scores).tolist() == [1, 0, 1]


def test_no_word_has_no_tag_and_certainty_is_no_trouble() -> None:
    assert Sequences(LABELS).best(np.zeros((0, 5))).tolist() == []
    scores = np.eye(5)[[2, 2, 0, 4]]
    assert allowed(tuple(LABELS[tag] for tag in Sequences(LABELS).best(scores)))
