"""If these fail, a bundle with worse answers than its checkpoint is accepted, or a good one is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from models.task import HeadSpec, Logits
from training.errors import ExportError
from training.parity.accuracy_gate import check_parity, remarks
from training.parity.logit_comparison import Figures, compare

CLASSIFIER = HeadSpec("classify", ["a", "b"])
SEVERAL = HeadSpec("classify", ["a", "b", "c"], {"function_to_apply": "sigmoid"})


def logits(*rows: list[float]) -> list[Logits]:
    return [np.array([row], np.float32) for row in rows]


# ---- what logits mean ----------------------------------------------------------------------------------------------


def test_expected_loss_is_what_the_wrong_choice_costs() -> None:
    expected = logits([np.log(0.7), np.log(0.3)], [np.log(0.6), np.log(0.4)])
    found = logits([1.0, 2.0], [2.0, 1.0])
    compared = compare(CLASSIFIER, expected, found)
    assert compared["equal_argmax"] == 0.5
    assert compared["expected_loss"] == pytest.approx(100 * (0.7 - 0.3) / 2, rel=1e-5)


def test_a_calibrated_head_is_judged_by_its_calibrated_scores() -> None:
    sure = HeadSpec("classify", ["a", "b"], temperature=2.0)
    expected, found = logits([2 * np.log(0.7), 2 * np.log(0.3)]), logits([1.0, 2.0])
    assert compare(sure, expected, found)["expected_loss"] == pytest.approx(100 * (0.7 - 0.3), rel=1e-5)


def test_a_tie_costs_nothing() -> None:
    compared = compare(HeadSpec("tag", ["O", "X"]), logits([1.0, 1.0]), logits([1.0, 1.0001]))
    assert compared["equal_argmax"] == 0.0 and compared["expected_loss"] == 0.0


def test_qa_chooses_among_positions() -> None:
    start_end = np.array([[5.0, 0.0], [0.0, 5.0], [1.0, 1.0]], np.float32)
    assert compare(HeadSpec("qa", []), [start_end], [start_end[:, ::-1]])["equal_argmax"] == 0.0
    assert compare(HeadSpec("qa", []), [start_end], [start_end])["choices"] == 2


def test_the_error_counts_rows_and_not_their_tokens() -> None:
    """Tokens of a row are wrong together: the error is that of rows drawn again and again (bootstrap)."""
    generator = np.random.default_rng(0)
    expected = [np.tile(np.array([[1.0, 0.0]], np.float32), (20, 1)) for _ in range(100)]
    found = [each[:, ::-1] if generator.random() < 0.2 else each for each in expected]
    compared = compare(HeadSpec("tag", ["O", "X"]), expected, found)
    losses = []
    for _ in range(300):
        drawn = generator.integers(len(found), size=len(found))
        again = compare(HeadSpec("tag", ["O", "X"]), [expected[n] for n in drawn], [found[n] for n in drawn])
        losses.append(again["expected_loss"])
    assert compared["error"] == pytest.approx(np.std(losses), rel=0.15)


@pytest.mark.parametrize("defaults", [{}, {"function_to_apply": "sigmoid"}])
def test_one_label_is_compared_by_its_score(defaults: dict[str, Any]) -> None:
    """Its softmax is always 1, and its choice always equal."""
    one = HeadSpec("classify", ["spam"], defaults)
    compared = compare(one, logits([0.0], [2.0]), logits([np.log(3)], [2.0]))
    assert "equal_argmax" not in compared and compared["choices"] == 2
    assert compared["score_difference"] == pytest.approx(100 * (0.75 - 0.5) / 2)
    assert compared["same_side"] == 0.5


def test_labels_that_do_not_compete_are_compared_each_for_itself() -> None:
    """Argmax is equal in both rows, though the second label has changed sides; the worst label counts."""
    expected, found = logits([5.0, 1.0, -9.0], [5.0, 1.0, -9.0]), logits([5.0, -1.0, -9.0], [5.0, 1.0, -9.0])
    compared = compare(SEVERAL, expected, found)
    assert compared["same_side"] == pytest.approx(5 / 6)
    assert compared["score_difference"] == pytest.approx(100 * (1 / (1 + np.exp(-1)) - 1 / (1 + np.exp(1))) / 2)


def test_numbers_far_from_zero_are_compared_by_what_they_vary() -> None:
    """In points of their mean square, years that are 10 off would pass for equal."""
    spec = HeadSpec("classify", ["year"], problem_type="regression")
    expected, found = logits([1990.0], [2010.0]), logits([2000.0], [2000.0])
    assert compare(spec, expected, found)["score_difference"] == pytest.approx(100.0)
    assert compare(spec, expected, logits([1991.0], [2010.0]))["score_difference"] == pytest.approx(0.5)


def test_labels_of_a_set_are_compared_by_their_sigmoids() -> None:
    spec = HeadSpec("classify", ["a", "b"], problem_type="multi_label_classification")
    compared = compare(spec, logits([0.0, 3.0]), logits([1.0, 3.0]))
    assert compared["score_difference"] == pytest.approx(100 * (1 / (1 + np.exp(-1)) - 0.5))
    assert compared["same_side"] == 0.5


def test_scores_without_a_function_have_no_scale_of_their_own() -> None:
    spec = HeadSpec("pair", ["similarity"], {"function_to_apply": "none"})
    expected, found = logits([3.0], [-1.0], [2.0]), logits([3.3], [-1.0], [2.0])
    for scale in (1.0, 1000.0):
        scaled = [[scale * row for row in rows] for rows in (expected, found)]
        assert compare(spec, *scaled)["score_difference"] == pytest.approx(100 * 0.09 / (9 + 1 + 4), rel=1e-4)


# ---- what is refused -----------------------------------------------------------------------------------------------


def measured(
    loss: float | None = None,
    error: float = 0.0,
    examples: int = 1000,
    kind: str = "validation",
    metric: str = "f1",
    **texts: float,
) -> Figures:
    judged = {"texts": 300, "source": "made of the vocabulary", "expected_loss": 0.0, "error": error} | texts
    head: Figures = {"max_difference": 0.1, "largest_logit": 5.0, "texts": judged}
    if loss is not None:
        found = {"metric": metric, "file": "validation.jsonl", "loss": loss, "error": error, "examples": examples}
        head[kind] = found
    return {"precisions": {"int8": {"heads": {"ner": head}}}}


def with_texts(texts: dict[str, float]) -> Figures:
    figures = measured()
    figures["precisions"]["int8"]["heads"]["ner"]["texts"] |= texts
    return figures


def test_the_gate() -> None:
    check_parity(measured(0.5), 0.5)
    check_parity(measured(expected_loss=1.0), 0.5)
    with pytest.raises(ExportError, match=r"'ner' loses 0.60 ± 0.00 points in int8 by f1 on 1,000 validation examples"):
        check_parity(measured(0.6), 0.5)
    with pytest.raises(ExportError, match=r"by its expected loss on 300 texts \(made of the vocabulary\), expected"):
        check_parity(measured(expected_loss=1.1), 0.5)
    with pytest.raises(ExportError, match="on 1,000 training examples of validation.jsonl"):
        check_parity(measured(0.6, kind="training"), 0.5)


def test_the_gate_judges_labels_and_texts() -> None:
    with pytest.raises(ExportError, match="expected loss"):
        check_parity(measured(0.0, expected_loss=1.1), 0.5)


@pytest.mark.parametrize("field", ["expected_loss", "score_difference", "error"])
def test_figures_that_are_no_numbers_are_refused(field: str) -> None:
    with pytest.raises(ExportError):
        check_parity(with_texts({field: float("nan")}), 0.5)
    with pytest.raises(ExportError):
        check_parity(measured(float("nan")), 0.5)


def test_what_chance_explains_is_no_loss() -> None:
    check_parity(measured(1.0, error=0.4), 0.5)
    with pytest.raises(ExportError, match="1.50 ± 0.40"):
        check_parity(measured(1.5, error=0.4), 0.5)
    check_parity(measured(expected_loss=1.5, error=0.4), 0.5)


def test_few_examples_do_not_judge() -> None:
    check_parity(measured(30.0, examples=99), 0.5)
    with pytest.raises(ExportError):
        check_parity(measured(30.0, examples=100), 0.5)


def test_scores_judge_labels_that_do_not_compete() -> None:
    check_parity(measured(9.0, score_difference=4.9, metric="accuracy"), 0.5)
    for metric in ("micro_f1", "pearson"):
        with pytest.raises(ExportError, match=f"loses 9.00 ± 0.00 points in int8 by {metric} on 1,000 validation"):
            check_parity(measured(9.0, score_difference=4.9, metric=metric), 0.5)
    with pytest.raises(ExportError, match="loses 5.10 ± 0.00 points in int8 by the difference of its scores"):
        check_parity(measured(0.0, score_difference=5.1), 0.5)


def test_what_could_not_judge_is_said() -> None:
    assert list(remarks(measured(0.1))) == []
    assert list(remarks(measured(0.1, examples=30))) == [
        "ner: 30 examples of validation.jsonl are too few, expected 100 or more; it is judged by its expected loss "
        "on 300 texts (made of the vocabulary)"
    ]
    assert "no validation data; it is judged by its expected loss" in next(remarks(measured()))
    assert "f1 on 1,000 training examples" in next(remarks(measured(0.1, kind="training")))
    assert "its labels are independent" in next(remarks(measured(0.1, metric="accuracy", score_difference=1.0)))
    assert "the difference of its scores on 300 texts" in next(remarks(measured(score_difference=1.0)))
    assert list(remarks(measured(0.1, metric="micro_f1", score_difference=1.0))) == []


def simulated(loss: float, count: int, seed: int) -> Figures:
    """Right or wrong answers of two networks that differ in 6 % of them, by which the second is worse by `loss`."""
    generator = np.random.default_rng(seed)
    worse, better = 0.03 + loss / 200, 0.03 - loss / 200
    drawn = generator.choice([1, -1, 0], count, p=[worse, better, 1 - worse - better])
    return measured(100 * drawn.mean(), error=100 * drawn.std(ddof=1) / np.sqrt(count), examples=count)


def refused(figures: Sequence[Figures]) -> int:
    count = 0
    for each in figures:
        try:
            check_parity(each, 0.5)
        except ExportError:
            count += 1
    return count


@pytest.mark.parametrize("count", [100, 1000, 5000])
def test_good_heads_pass_and_bad_ones_do_not(count: int) -> None:
    """Of heads that lose nothing and of those at the budget, at most 5 % and some are refused, on any number."""
    assert refused([simulated(0.0, count, seed) for seed in range(200)]) <= 12
    assert refused([simulated(0.5, count, seed) for seed in range(200)]) <= 20
    assert count < 5000 or refused([simulated(2.0, count, seed) for seed in range(200)]) >= 190
