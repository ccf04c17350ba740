"""If these fail, an example counts in two quarters or in none, or a figure describes other examples than it says."""

from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.length_slices import lengths_of, slices


@given(st.lists(st.integers(0, 20), max_size=60))
def test_quarters_hold_every_example_once(lengths: list[int]) -> None:
    chosen: list[int] = []

    def figure(places: list[int]) -> float:
        chosen.extend(places)
        return float(len(places))

    found = slices(lengths, figure)
    assert sorted(chosen) == list(range(len(lengths))) and len(found) <= 4
    assert [one.figure for one in found] == [one.examples for one in found]
    for one, following in zip(found, found[1:], strict=False):
        assert one.longest < following.shortest


def test_quarters_are_equal_where_lengths_differ() -> None:
    assert [(one.shortest, one.longest) for one in slices(range(100, 0, -1), len)] == [
        (1, 25), (26, 50), (51, 75), (76, 100),
    ]  # fmt: skip


def test_words_are_counted_without_a_tokenizer() -> None:
    assert lengths_of(["a  b\nc", ""], None) == [3, 0]
