"""If these fail, figures of multi-label heads differ from those that other tools compute."""

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    label_ranking_average_precision_score,
    log_loss,
)

from models.predictor import Prediction
from models.task import HeadSpec, ProblemType
from training.evaluation.evaluate_command import table
from training.evaluation.metrics import headline
from training.evaluation.multi_label import (
    macro_f1,
    micro_f1,
    multi_label_scores,
    score_label_sets,
    truth_of,
)


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_sklearn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    texts, labels = int(generator.integers(1, 30)), int(generator.integers(2, 7))
    gold = generator.random((texts, labels)) < 0.4
    scores = np.round(generator.random((texts, labels)), 1)  # with equal ones
    predicted = scores >= 0.5
    found = multi_label_scores(gold, scores, predicted)
    occurring = np.flatnonzero(gold.any(axis=0) | predicted.any(axis=0)).tolist()
    assert found["micro_f1"] == pytest.approx(f1_score(gold, predicted, average="micro", zero_division=0))
    expected = f1_score(gold, predicted, average="macro", labels=occurring, zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    assert found["ranking_precision"] == pytest.approx(label_ranking_average_precision_score(gold, scores))
    inside = np.clip(scores, 0.05, 0.95)
    flat = log_loss(gold.ravel(), inside.ravel(), labels=[False, True])
    assert multi_label_scores(gold, inside, predicted)["loss"] == pytest.approx(flat)


@pytest.mark.parametrize("seed", range(8))
def test_chance_is_the_best_of_all_constant_answers(seed: int) -> None:
    generator = np.random.default_rng(seed)
    gold = generator.random((12, 4)) < generator.random(4)
    found = multi_label_scores(gold, np.zeros(gold.shape), np.zeros(gold.shape, bool))
    constant = [np.tile([bool(number >> bit & 1) for bit in range(4)], (12, 1)) for number in range(16)]
    assert found["micro_f1_chance"] == pytest.approx(max(micro_f1(gold, each) for each in constant))
    assert found["subset_accuracy_chance"] == max((gold == each).all(axis=1).mean() for each in constant)
    assert found["macro_f1_chance"] >= max(macro_f1(gold, each) for each in constant) - 1e-9
    by_frequency = np.argsort(np.argsort(gold.sum(axis=0), kind="stable"))
    expected = label_ranking_average_precision_score(gold, np.tile(by_frequency, (12, 1)))
    assert found["ranking_precision_chance"] == pytest.approx(expected)


@pytest.mark.parametrize("truth", [[[True], [False], [True]], [[False], [False], [False]]])
def test_one_label_is_a_yes_or_no(truth: list[list[bool]]) -> None:
    gold, scores = np.array(truth), np.array([[0.9], [0.1], [0.2]])
    found = multi_label_scores(gold, scores, scores >= 0.5)
    assert found["micro_f1"] == f1_score(gold.ravel(), [True, False, False], zero_division=0)
    assert found["ranking_precision"] == 1.0 and found["subset_accuracy"] == pytest.approx(2 / 3)


def test_a_label_is_predicted_from_its_threshold_on() -> None:
    answers = [
        Prediction(1, [{"label": "b", "score": 0.4}, {"label": "a", "score": 0.3}], None),
        Prediction(0, [{"label": "a", "score": 0.6}, {"label": "b", "score": 0.2}], None),
    ]
    gold: list[tuple[str, ...]] = [("a",), ("b",)]
    problem: ProblemType = "multi_label_classification"
    assert truth_of(gold, ["a", "b"]).tolist() == [[True, False], [False, True]]
    for threshold, right in ((None, 0.5), (0.35, 1.0), ({"b": 0.4}, 1.0), ({"a": 0.7}, 0.0), ({"b": 0.1}, 0.5)):
        spec = HeadSpec("classify", ["a", "b"], {"threshold": threshold}, problem_type=problem)
        assert score_label_sets(gold, answers, spec)["subset_accuracy"] == right, threshold


def test_the_table_shows_shares_and_the_chief_figure_is_f1() -> None:
    found = multi_label_scores(np.array([[True, False]]), np.array([[0.9, 0.1]]), np.array([[True, False]]))
    assert headline(found) == "micro_f1"
    assert [column.header for column in table("it", found).columns] == ["figure", "value", "chance"]
