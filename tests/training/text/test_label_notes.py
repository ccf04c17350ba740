"""If these fail, a suspicious label (a missing value, several in one, another spelling) is not reported."""

from collections.abc import Sequence
from typing import Any

import pytest

from training.text.examples import Example, TaggedExample, TextExample
from training.text.label_notes import note_labels, note_lists, note_words
from training.text.notes import Notes


def noted(labels: Sequence[str | tuple[str, ...] | float]) -> list[tuple[str, int]]:
    notes = Notes()
    examples: list[Example] = [TextExample(f"text {number}", label) for number, label in enumerate(labels)]
    note_labels(examples, notes)
    return list(notes.items())


@pytest.mark.parametrize(
    ("labels", "said", "count"),
    [
        (["spam", "spam", "Spam", "spam ", "ham"], "only in capitals or blanks ('Spam', 'spam ')", 2),
        (
            ["yes", "no", "nan", "nan", "NULL"],
            "remove such rows unless it is a class ('nan', 'NULL')",
            3,
        ),
        (["a|b", "a", "b", "b"], 'seem to join several; write a list such as ["a", "b"] (\'a|b\')', 1),
        (["a, b", "b, c", "c, a", "d"], "('a, b', 'b, c', 'c, a')", 3),
        (["4,35", "1,2", "3", "3,1", "2,22"], "write numbers with a point ('4,35', '1,2', '3,1', …)", 4),
        ([("Spam", "ham"), ("spam", "ham"), ("spam",)], "('Spam')", 1),
    ],
)
def test_what_looks_wrong_is_told_once_with_examples(
    labels: Sequence[str | tuple[str, ...]], said: str, count: int
) -> None:
    [(sentence, found)] = noted(labels)
    assert said in sentence and found == count


def test_usual_labels_are_not_told() -> None:
    assert noted(["positive", "negative", "not_sure", "food, drinks", "1", "0", "true"]) == []
    assert noted(["so far", "so far,", "|", "a,", "b"]) == []
    assert noted(["sports/football", "sports/tennis", "a|b", "C"]) == []
    assert noted([1.5, 2.0]) == []


def test_words_that_were_read_as_sentences_are_told() -> None:
    """A table of one word per row, whose columns were named as those of a sentence."""
    for words, count in ((["a", "b"], 2), (["a"], 0), ([], 0)):
        notes = Notes()
        note_words([TaggedExample([word], ["O"]) for word in words], notes)
        assert sum(notes.values()) == count
    note_words([TaggedExample(["a", "b"], ["O", "O"]), TaggedExample(["a"], ["O"])], notes := Notes())
    assert not notes


@pytest.mark.parametrize(("labels", "count"), [([("a",), ("b",)], 2), ([("a",), ("a", "b")], 0), (["a", "b"], 0)])
def test_lists_of_one_label_are_told(labels: Any, count: int) -> None:
    note_lists([TextExample(f"text {number}", label) for number, label in enumerate(labels)], notes := Notes())
    assert sum(notes.values()) == count
