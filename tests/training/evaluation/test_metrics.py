"""If these fail, a figure in a table is not what its name says, or lacks the baseline of chance."""

import math
import warnings
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from training.evaluation.metrics import (
    accuracy,
    answer_f1,
    answer_scores,
    confusion,
    entropy,
    exact_match,
    expected_calibration_error,
    label_scores,
    macro_f1,
    majority,
    negative_log_likelihood,
    normalize_answer,
    span_scores,
    spans_of,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # seqeval's build leaves invalid metadata behind, which its import meets
    from seqeval.metrics import f1_score as seqeval_f1  # type: ignore[import-untyped]
    from seqeval.metrics import precision_score as seqeval_precision
    from seqeval.metrics import recall_score as seqeval_recall
    from seqeval.metrics.sequence_labeling import get_entities  # type: ignore[import-untyped]

LABELS = st.sampled_from(["a", "b", "c", "d"])
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])


@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=40))
def test_label_figures_equal_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    gold, predicted = [left for left, _ in pairs], [right for _, right in pairs]
    assert accuracy(gold, predicted) == pytest.approx(accuracy_score(gold, predicted))
    assert macro_f1(gold, predicted) == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))
    labels = ["a", "b", "c", "d"]
    np.testing.assert_array_equal(confusion(gold, predicted, labels), confusion_matrix(gold, predicted, labels=labels))


def test_label_chance_is_the_majority_class_of_the_data() -> None:
    gold = ["yes"] * 68 + ["no"] * 32
    scores = label_scores(gold, gold)
    assert scores == {
        "accuracy": 1.0,
        "accuracy_chance": 0.68,
        "macro_f1": 1.0,
        "macro_f1_chance": pytest.approx(0.5 * 2 * 68 / 168),
    }
    assert majority(["x", "y", "y"]) == ("y", 2 / 3)


@given(st.lists(TAGS, max_size=12))
def test_spans_equal_seqeval_also_for_illegal_sequences(tags: list[str]) -> None:
    assert spans_of(tags) == {(name, start, end + 1) for name, start, end in get_entities(tags)}


@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=10), min_size=1, max_size=8))
def test_span_scores_equal_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    gold = [[left for left, _ in sentence] for sentence in sentences]
    predicted = [[right for _, right in sentence] for sentence in sentences]
    scores = span_scores(gold, predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # undefined where nothing was predicted, there as here 0
        assert scores["f1"] == pytest.approx(seqeval_f1(gold, predicted))
        assert scores["precision"] == pytest.approx(seqeval_precision(gold, predicted))
        assert scores["recall"] == pytest.approx(seqeval_recall(gold, predicted))


def test_a_span_counts_only_with_both_ends_and_its_type() -> None:
    gold = [["B-PER", "I-PER", "O", "B-LOC"]]
    assert span_scores(gold, [["B-PER", "O", "O", "B-LOC"]])["f1"] == 0.5
    assert span_scores(gold, [["B-ORG", "I-ORG", "O", "B-LOC"]])["f1"] == 0.5
    assert span_scores(gold, [["B-PER", "B-PER", "O", "B-LOC"]])["f1"] == pytest.approx(2 / 5)
    assert span_scores(gold, [["O"] * 4])["f1"] == 0.0


def test_span_chance_takes_each_word_for_the_most_frequent_type() -> None:
    gold = [["B-PER", "O", "B-LOC"], ["B-PER", "I-PER", "O"]]
    expected = span_scores(gold, [["B-PER"] * 3, ["B-PER"] * 3])["f1"]
    scores = span_scores(gold, gold)
    assert scores["f1"] == 1.0
    assert scores["f1_chance"] == expected == pytest.approx(2 * 1 / (3 + 6))
    assert scores["spans"] == 3
    assert span_scores([["O", "O"]], [["O", "O"]])["f1_chance"] == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat, a dog; AN owl!", "cat dog owl"),
        ("theatre", "theatre"),
        ("U.S.-led", "usled"),
        ("“quoted”", "“quoted”"),
        ("the", ""),
        ("an-swer", "answer"),
        ("\tKöln\n", "köln"),
    ],
)
def test_answers_are_normalized_as_squad_does(text: str, expected: str) -> None:
    assert normalize_answer(text) == expected


def test_answers_are_scored_against_the_closest_gold_answer() -> None:
    assert exact_match("The Rhine.", ["river rhine", "Rhine"]) == 1.0
    assert exact_match("Rhine river", ["Rhine"]) == 0.0
    assert answer_f1("Rhine river", ["Rhine", "Elbe"]) == pytest.approx(2 / 3)
    assert answer_f1("to be or not to be", ["to be"]) == pytest.approx(0.5)
    assert answer_f1("x", ["y"]) == 0.0


def test_no_answer_is_right_only_where_there_is_none() -> None:
    assert exact_match("", []) == answer_f1("", []) == 1.0
    assert exact_match("Rhine", []) == answer_f1("Rhine", []) == 0.0
    assert exact_match("", ["Rhine"]) == answer_f1("", ["Rhine"]) == 0.0
    assert answer_f1("", ["the"]) == 1.0  # a gold answer of nothing but an article counts as none (evaluate-v2.0.py)


@given(st.text(alphabet="ab .,the", max_size=12), st.text(alphabet="ab .,the", max_size=12))
def test_answer_f1_equals_the_official_formula(prediction: str, gold: str) -> None:
    assert answer_f1(prediction, [gold]) == pytest.approx(official_f1(gold, prediction))


def official_f1(gold: str, prediction: str) -> float:
    """Precision and recall as evaluate-v2.0.py spells them out."""
    gold_words, words = normalize_answer(gold).split(), normalize_answer(prediction).split()
    same = sum((Counter(gold_words) & Counter(words)).values())
    if not gold_words or not words:
        return float(gold_words == words)
    if same == 0:
        return 0.0
    precision, recall = same / len(words), same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def test_answers_are_broken_down_by_whether_there_is_one() -> None:
    gold = [["red"], ["blue sky"], [], []]
    scores = answer_scores(gold, ["red", "sky", "", "wrong"], ["red house", "blue sky today", "some text", "more text"])
    assert scores["answerable_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert scores["answerable_exact_match"] == 0.5
    assert scores["unanswerable_f1"] == scores["unanswerable_exact_match"] == 0.5
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
    assert scores["exact_match"] == 0.5
    assert (scores["all_questions"], scores["answerable_questions"], scores["unanswerable_questions"]) == (4, 2, 2)


def test_answer_chance_is_silence_or_a_random_span() -> None:
    contexts = ["one two three four five six seven eight nine ten"] * 200
    scores = answer_scores([["three four"]] * 150 + [[]] * 50, [""] * 200, contexts)
    assert scores["unanswerable_exact_match_chance"] == 1.0
    assert 0.0 < scores["answerable_f1_chance"] < 0.4
    # 9 places for two words in ten: one is right, two share a word
    assert scores["answerable_f1_chance"] == pytest.approx((1 + 2 * 0.5) / 9, abs=0.08)
    assert scores["exact_match_chance"] == 0.25
    assert "unanswerable_f1" not in answer_scores([["three"]], ["three"], contexts[:1])


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    correct = np.array([True] * 7 + [False] * 3)
    assert expected_calibration_error(np.full(10, 0.7), correct) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(np.full(10, 1.0), correct) == pytest.approx(0.3)
    mixed = np.concatenate([np.full(10, 1.0), np.full(10, 0.5)])
    assert expected_calibration_error(mixed, np.concatenate([correct, correct])) == pytest.approx((0.3 + 0.2) / 2)


def test_the_likelihood_is_stable_for_large_logits() -> None:
    assert negative_log_likelihood(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(1e4)
    assert negative_log_likelihood(np.zeros((2, 8)), np.array([0, 7])) == pytest.approx(math.log(8))


def test_entropy_is_the_loss_of_answering_the_distribution_of_the_data() -> None:
    assert entropy(Counter("aabb")) == pytest.approx(math.log(2))
    assert entropy(Counter("a")) == 0.0
