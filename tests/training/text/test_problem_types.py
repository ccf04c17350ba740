"""If these fail, numbers are learned as classes, or a set of labels as a single label."""

import json
from pathlib import Path
from typing import Any

import pytest

from models.task import HeadSpec, ProblemType
from training.errors import DataError
from training.text.examples import Document, PairExample, TextExample, labels_of, read_examples
from training.text.problem_types import as_problem, problem_for, problem_of

MULTI: ProblemType = "multi_label_classification"
SINGLE: ProblemType = "single_label_classification"
NUMBER: ProblemType = "regression"


def read(path: Path, *labels: Any) -> list[TextExample]:
    path.write_text("".join(json.dumps({"text": "a", "label": label}) + "\n" for label in labels), "utf8")
    return read_examples(path, "classify")


@pytest.mark.parametrize(
    ("written", "found", "problem"),
    [
        (["x", 3, True, False, -1], ["x", "3", "true", "false", "-1"], SINGLE),
        ([1.0, 0.0], [1.0, 0.0], SINGLE),
        ([["b", "a", "b"], [], "c", [1, True]], [("b", "a"), (), "c", ("1", "true")], MULTI),
        ([3, 2.5], ["3", 2.5], NUMBER),
    ],
)
def test_the_form_of_labels_says_what_they_are(
    tmp_path: Path, written: list[Any], found: list[Any], problem: ProblemType
) -> None:
    examples = read(tmp_path / "data.jsonl", *written)
    assert [example.label for example in examples] == found
    assert problem_of(examples) == problem
    pairs = [PairExample("a", "b", example.label) for example in examples]
    assert problem_of(pairs) == problem


@pytest.mark.parametrize(
    ("problem", "given", "expected"),
    [
        (SINGLE, ["x", 1.0, 0.5], ["x", "1", "0.5"]),
        (MULTI, ["x", ("a", "b"), (), 1.0], [("x",), ("a", "b"), (), ("1",)]),
        (NUMBER, ["3", 2.5, "-1e3"], [3.0, 2.5, -1000.0]),
    ],
)
def test_labels_get_the_form_of_their_problem(problem: ProblemType, given: list[Any], expected: list[Any]) -> None:
    for kind in (lambda label: TextExample("a", label), lambda label: PairExample("a", "b", label)):
        converted: list[Any] = as_problem([kind(label) for label in given], problem)
        assert [example.label for example in converted] == expected
        assert all(type(example.label) is type(expected[0]) for example in converted)
    document = Document("a")
    assert as_problem([document], problem) == [document]


@pytest.mark.parametrize(
    ("problem", "label", "words"),
    [
        (
            SINGLE,
            ("a", "b"),
            r"example 2 has the label \['a', 'b'\], expected one class \(single_label_classification\)",
        ),
        (NUMBER, "good", "example 2 has the label 'good', expected a number"),
        (NUMBER, (), r"example 2 has the label \[\], expected a number"),
        (NUMBER, "nan", "example 2 has the label 'nan', expected a number"),
    ],
)
def test_a_label_of_another_form_is_named(problem: ProblemType, label: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        as_problem([TextExample("a", "1"), TextExample("a", label)], problem)


def test_labels_of_sets_are_their_members_and_numbers_have_none() -> None:
    assert labels_of([TextExample("a", ("b", "a")), TextExample("b", ()), TextExample("c", ("c",))]) == ["a", "b", "c"]
    assert labels_of([TextExample("a", 0.5), TextExample("b", 1.0)]) == []


def test_one_label_alone_is_asked_as_the_data_is() -> None:
    one = HeadSpec("pair", ["relevant"])
    assert problem_for(one, [PairExample("a", "b", 0.3)]) == NUMBER
    assert problem_for(one, [PairExample("a", "b", ("relevant",))]) == MULTI
    assert problem_for(HeadSpec("pair", ["a", "b"]), [PairExample("a", "b", 0.3)]) == SINGLE
    assert problem_for(HeadSpec("pair", ["a"], problem_type=NUMBER), [PairExample("a", "b", "1")]) == NUMBER
