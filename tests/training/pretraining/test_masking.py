"""If these fail, masks do not follow BERT (15 %, then 80/10/10), or special tokens are masked."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.pretraining.masking import Ids, Vocabulary, mask_tokens

SPECIALS = np.array([0, 1, 2, 3, 4])
VOCABULARY = Vocabulary(4, SPECIALS, np.arange(5, 2000), np.arange(2000) % 3 == 0)
CLS, SEP = 2, 3


def row(rng: np.random.Generator, length: int) -> Ids:
    return np.concatenate([[CLS], rng.integers(5, 2000, length - 3), [SEP], [SEP]])


def test_shares_over_two_hundred_thousand_tokens() -> None:
    rng = np.random.default_rng(0)
    total = selected = masked = kept = 0
    drawn: list[int] = []
    for index in range(1600):
        ids = row(rng, 128)
        result = mask_tokens(ids, VOCABULARY, 0.15, np.random.default_rng([7, 0, index]))
        now = result.ids[result.columns]
        total += len(ids)
        selected += len(result.labels)
        masked += int((now == VOCABULARY.mask_id).sum())
        kept += int((now == result.labels).sum())
        drawn += now[(now != VOCABULARY.mask_id) & (now != result.labels)].tolist()
    assert total > 200_000
    assert selected / total == pytest.approx(19 / 128)  # an exact count: round(0.15 · 128)
    # three standard deviations of a binomial share over `selected` draws
    assert masked / selected == pytest.approx(0.8, abs=3 * (0.8 * 0.2 / selected) ** 0.5)
    assert kept / selected == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / selected) ** 0.5)
    assert len(drawn) / selected == pytest.approx(0.1, abs=3 * (0.1 * 0.9 / selected) ** 0.5)
    assert len(set(drawn)) > 1000 and min(drawn) >= 5


@given(st.integers(4, 300), st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_specials_are_never_chosen_nor_drawn_and_the_rest_stays(length: int, rate: float, seed: int) -> None:
    ids = row(np.random.default_rng(seed), length)
    result = mask_tokens(ids, VOCABULARY, rate, np.random.default_rng(seed))
    assert len(result.columns) == min(length - 3, max(1, round(rate * length)))
    assert not np.isin(result.labels, SPECIALS).any()
    assert not np.isin(result.ids[result.columns], [0, 1, 2, 3]).any()
    untouched = np.delete(np.arange(length), result.columns)
    assert (result.ids[untouched] == ids[untouched]).all()
    assert (ids[result.columns] == result.labels).all()
    assert len(set(result.columns.tolist())) == len(result.columns)


def test_whole_words_are_selected_with_all_their_pieces_or_not_at_all() -> None:
    selected = total = 0
    for index in range(300):
        ids = row(np.random.default_rng(index), 128)
        result = mask_tokens(ids, VOCABULARY, 0.15, np.random.default_rng([7, 0, index]), whole_words=True)
        chosen = set(result.columns.tolist())
        assert 1 <= len(chosen) <= 19
        for column in range(2, 126):
            if VOCABULARY.continues[ids[column]]:
                assert (column in chosen) == (column - 1 in chosen)
        selected, total = selected + len(chosen), total + len(ids)
    assert selected / total == pytest.approx(0.15, abs=0.01)


def test_a_row_of_one_long_word_has_a_label_still() -> None:
    ids = np.array([CLS, 7, 9, 12, 15, SEP, SEP])
    result = mask_tokens(ids, VOCABULARY, 0.15, np.random.default_rng(0), whole_words=True)
    assert result.columns.tolist() == [1, 2, 3, 4]


def test_a_key_decides_everything() -> None:
    ids = row(np.random.default_rng(0), 128)
    first, again, other = (mask_tokens(ids, VOCABULARY, 0.15, np.random.default_rng([1, e, 5])) for e in (0, 0, 1))
    assert (first.ids == again.ids).all() and (first.columns == again.columns).all()
    assert (first.columns != other.columns).any()
