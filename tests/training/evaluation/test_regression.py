"""If these fail, figures of regression heads differ from those of scipy and scikit-learn."""

import numpy as np
import pytest
from scipy.stats import rankdata
from sklearn.metrics import mean_absolute_error, r2_score

from models.predictor import Prediction
from training.evaluation.evaluate_command import table
from training.evaluation.metrics import headline
from training.evaluation.regression import regression_scores, score_numbers


@pytest.mark.parametrize(("count", "seed"), [(3, 0), (10, 1), (50, 2)])
def test_figures_are_those_of_other_libraries(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gold = generator.normal(3, 2, count)
    found = gold + generator.normal(0, 1, count)
    scores = regression_scores(gold, found)
    assert scores["pearson"] == pytest.approx(np.corrcoef(gold, found)[0, 1])
    assert scores["spearman"] == pytest.approx(np.corrcoef(rankdata(gold), rankdata(found))[0, 1])
    assert scores["mean_absolute_error"] == pytest.approx(mean_absolute_error(gold, found))
    assert scores["mean_absolute_error_chance"] == pytest.approx(mean_absolute_error(gold, [np.median(gold)] * count))
    fitted = np.polyval(np.polyfit(found, gold, 1), found)
    assert scores["pearson"] ** 2 == pytest.approx(r2_score(gold, fitted))


@pytest.mark.parametrize("constant", [[1.0, 1.0], [2.0]])
def test_a_constant_correlates_with_nothing(constant: list[float]) -> None:
    gold = np.arange(len(constant), dtype=float)
    assert regression_scores(gold, np.array(constant))["pearson"] == 0.0
    assert regression_scores(np.array(constant), gold)["spearman"] == 0.0


def test_numbers_are_shown_as_numbers() -> None:
    answers = [
        Prediction(1, [{"label": "score", "score": 2.0}], None),
        Prediction(0, [{"label": "score", "score": 1.0}], None),
    ]
    scores = score_numbers([1.0, 4.0], answers)
    assert scores["mean_absolute_error"] == 1.0 and headline(scores) == "pearson"
    cells = list(table("it", scores).columns[1].cells)
    assert cells == ["1.0000", "1.0000", "1.0000"]
