"""If these fail, a sample comes from one source alone, or differs from run to run."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from training.text.stratified_sample import stratified


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=200), st.integers(1, 200), st.integers(0, 100))
def test_each_part_has_its_share(strata: list[str], count: int, seed: int) -> None:
    drawn = stratified(strata, count, seed)
    assert drawn == sorted(set(drawn)) == stratified(strata, count, seed)
    assert len(drawn) == min(count, len(strata))
    counts = Counter(strata[place] for place in drawn)
    for stratum, size in Counter(strata).items():
        share = size * min(count, len(strata)) / len(strata)
        assert abs(counts[stratum] - share) < 1


def test_the_first_items_are_not_the_sample() -> None:
    drawn = stratified(["squad"] * 1300 + ["qed"] * 1100, 1000)
    assert Counter(place >= 1300 for place in drawn) == {False: 542, True: 458}
    assert drawn[:542] != list(range(542))
    assert stratified([0] * 2000, 1000, 0) != stratified([0] * 2000, 1000, 1)
