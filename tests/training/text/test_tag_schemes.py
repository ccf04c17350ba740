"""If these fail, names are learned with wrong borders, because tags of another scheme were read as BIO."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.text.tag_schemes import to_bio

LABELS = ["PER", "LOC"]
SENTENCES = st.lists(st.lists(st.tuples(st.sampled_from(["", *LABELS]), st.integers(1, 4)), max_size=6), min_size=1)
"""Runs of words outside of spans, and spans, each with its number of words."""


def bio(runs: list[tuple[str, int]]) -> list[str]:
    return [
        tag for name, size in runs for tag in ([f"B-{name}"] + [f"I-{name}"] * (size - 1) if name else ["O"] * size)
    ]


def four(runs: list[tuple[str, int]], begin: str, inside: str, end: str, alone: str) -> list[str]:
    """Write spans with a letter for their last word, and one for a word alone."""
    tags: list[str] = []
    for name, size in runs:
        letters = alone if size == 1 else begin + inside * (size - 2) + end
        tags += [f"{letter}-{name}" for letter in letters] if name else ["O"] * size
    return tags


def iob1(runs: list[tuple[str, int]]) -> list[str]:
    tags: list[str] = []
    for name, size in runs:
        follows = bool(name) and bool(tags) and tags[-1][2:] == name
        tags += ([f"{'B' if follows else 'I'}-{name}"] + [f"I-{name}"] * (size - 1)) if name else ["O"] * size
    return tags


@given(SENTENCES)
def test_every_scheme_becomes_the_same_bio(sentences: list[list[tuple[str, int]]]) -> None:
    expected = [bio(runs) for runs in sentences]
    assert to_bio(expected)[:2] == (expected, 0)
    assert to_bio([iob1(runs) for runs in sentences])[0] == expected
    for letters in ("BIES", "BILU", "BMEW", "BMES"):
        assert to_bio([four(runs, *letters) for runs in sentences])[0] == expected


@pytest.mark.parametrize(
    ("tags", "expected", "changed", "scheme"),
    [
        (["I-PER", "I-PER", "O", "I-LOC"], ["B-PER", "I-PER", "O", "B-LOC"], 2, "IOB1"),
        (["B-PER", "O", "I-LOC"], ["B-PER", "O", "B-LOC"], 1, "BIO with spans that begin with I-"),
        (["B-PER", "I-LOC"], ["B-PER", "B-LOC"], 1, "BIO with spans that begin with I-"),
        (["B-PER", "E-PER", "I-PER"], ["B-PER", "I-PER", "B-PER"], 2, "BIOES"),
        (["S-PER", "O"], ["B-PER", "O"], 1, "BIOES"),
        (["U-PER", "L-PER"], ["B-PER", "B-PER"], 2, "BILOU"),
    ],
)
def test_a_span_that_begins_wrongly_begins_with_b(
    tags: list[str], expected: list[str], changed: int, scheme: str
) -> None:
    assert to_bio([tags]) == ([expected], changed, scheme)


def test_plain_tags_stay() -> None:
    tags = [["NOUN", "VERB", "X", "S-bar"], ["PRP$", "-LRB-"]]
    assert to_bio(tags) == (tags, 0, "")
