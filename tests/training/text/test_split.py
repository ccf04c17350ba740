"""If these fail, validation data contains texts of the training data, or labels that were never trained."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.text.examples import Example, PairExample, QuestionExample, SpannedText, TaggedExample, TextExample
from training.text.split import hold_out


def texts(**counts: int) -> list[Example]:
    return [TextExample(f"{label} {number}", label) for label, count in counts.items() for number in range(count)]


def labels(examples: list[Any]) -> Counter[str]:
    return Counter(example.label for example in examples)


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_of_each_label_is_held_out(seed: int) -> None:
    examples = texts(a=100, b=50, c=20, d=1)
    training, held = hold_out(examples, seed=seed)
    assert labels(held) == {"a": 10, "b": 5, "c": 2}
    assert sorted(map(repr, training + held)) == sorted(map(repr, examples))
    assert [one for one in examples if one in held] == held
    assert hold_out(examples, seed=seed) == (training, held) != hold_out(examples, seed=seed + 1)


def test_of_many_small_classes_a_tenth_is_held_out_of_all_together() -> None:
    training, held = hold_out(texts(**{f"c{number}": 5 for number in range(40)}))
    assert len(held) == 20 and max(labels(held).values()) == 1
    assert len(labels(training)) == 40


ROWS = st.lists(
    st.builds(TextExample, st.sampled_from("abcdefgh"), st.sampled_from(["x", "y", "z"])), min_size=1, max_size=30
)


@given(ROWS, st.floats(0, 1), st.integers(0, 9))
def test_no_text_is_on_both_sides_and_no_label_is_lost(rows: list[TextExample], share: float, seed: int) -> None:
    training, held = hold_out(rows, share, seed)
    assert not {one.text for one in training} & {one.text for one in held}  # type: ignore[union-attr]
    assert set(labels(held)) <= set(labels(training)) == {row.label for row in rows}


def test_the_same_text_in_other_letters_is_the_same() -> None:
    rows: list[Example] = [
        TextExample(text, "x") for number in range(30) for text in (f"Good {number}", f"good  {number}")
    ]
    training, held = hold_out(rows, 0.5)
    assert len(held) == 30 and len({one.text.split()[-1] for one in held}) == 15  # type: ignore[union-attr]


def test_several_labels_are_drawn_by_their_rarest() -> None:
    made: Any = TextExample  # whose label may be several, or a number
    rows = [made(str(number), ("common", "rare") if number % 10 == 0 else ("common",)) for number in range(200)]
    _, held = hold_out(rows)
    assert sum("rare" in one.label for one in held) == 2 and len(held) == 20  # type: ignore[union-attr,operator]


def test_numbers_are_drawn_from_their_whole_range() -> None:
    made: Any = TextExample
    rows = [made(str(number), number / 7) for number in range(200)]
    _, held = hold_out(rows)
    assert Counter(int(one.text) // 20 for one in held) == dict.fromkeys(range(10), 2)  # type: ignore[union-attr]


def test_a_context_a_pair_and_a_type_of_span_stay_together() -> None:
    questions: list[Any] = [
        QuestionExample(f"{number}", f"context {number // 5}", "?", ["c"], [0]) for number in range(100)
    ]
    training, held = hold_out(questions)
    assert len(held) == 10 and not {one.context for one in training} & {one.context for one in held}  # type: ignore[union-attr]
    pairs: list[Any] = [
        PairExample(*pair, "x") for number in range(20) for pair in ((f"{number}", "a"), ("a", f"{number}"))
    ]
    _, held = hold_out(pairs)
    assert len({frozenset((one.text_a, one.text_b)) for one in held}) == 2 and len(held) == 4  # type: ignore[union-attr]
    tagged: list[Any] = [
        SpannedText(f"t{number}", [(0, 2, "PER")] if number % 10 == 0 else []) for number in range(100)
    ]
    tagged += [TaggedExample(["w"], ["B-LOC"])]
    training, held = hold_out(tagged)
    assert sum(bool(one.spans) for one in held) == 1 and len(held) == 10  # type: ignore[union-attr]


def test_where_no_label_can_spare_an_example_nothing_is_held_out() -> None:
    examples = texts(a=1, b=1)
    assert hold_out(examples) == (examples, [])
