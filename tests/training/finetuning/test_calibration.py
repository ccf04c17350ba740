"""If these fail, a head is sure of everything after a few examples, or its own fit flatters its calibration error."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.checkpoint import write_checkpoint
from models.config import EncoderConfig
from models.tokenizer import Tokenizer
from tests.models import bundles
from training.evaluation.metrics import expected_calibration_error, negative_log_likelihood
from training.evaluation.predictors import CheckpointPredictor
from training.finetuning.calibration import (
    DOUBTFUL,
    MIN_GAIN,
    Calibration,
    cross_fitted_error,
    cross_fitted_temperatures,
    fit_temperature,
    smoothed_loss,
)
from training.finetuning.finetune import finetune
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def calibrated(count: int, classes: int, seed: int = 1) -> tuple[Floats, Labels]:
    """Logits whose softmax is the very distribution that the labels are drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2.0, size=(count, classes))
    noise = generator.gumbel(size=logits.shape)
    return logits, (logits + noise).argmax(axis=1)


def faultless(count: int, classes: int, margin: float) -> tuple[Floats, Labels]:
    labels = np.arange(count) % classes
    return margin * np.eye(classes)[labels], labels


def confidence(logits: Floats) -> Floats:
    top: Floats = 1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)
    return top


# ---- the temperature -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.2, 1.0, 3.0])
def test_the_temperature_undoes_a_known_overconfidence(factor: float) -> None:
    logits, labels = calibrated(20_000, 4)
    temperature = fit_temperature(logits * factor, labels)
    assert temperature == pytest.approx(factor, rel=0.05)
    best = smoothed_loss(logits * factor / temperature, labels)
    given_up = MIN_GAIN / len(labels) if temperature == 1 else 1e-6
    for other in np.geomspace(0.05, 20, 200):  # brute force finds nothing better
        assert best <= smoothed_loss(logits * factor / other, labels) + given_up


@pytest.mark.parametrize("seed", range(5))
def test_many_examples_decide_alone(seed: int) -> None:
    """Within 1 % of the temperature of the greatest likelihood, by brute force."""
    logits, labels = calibrated(5000, 2, seed)
    grid = np.geomspace(1.2, 2.2, 1000)
    likeliest = grid[np.argmin([negative_log_likelihood(1.6 * logits / each, labels) for each in grid])]
    assert fit_temperature(1.6 * logits, labels) == pytest.approx(likeliest, rel=0.01)


@pytest.mark.parametrize("margin", [3.0, 8.0, 60.0])
@pytest.mark.parametrize("classes", [2, 3, 20])
def test_faultless_data_allow_as_much_as_their_number(classes: int, margin: float) -> None:
    """The loss has its minimum where the score of the label is its smoothed share, whatever the margin."""
    for count in (30, 300):
        logits, labels = faultless(count, classes, margin)
        scores = confidence(logits / fit_temperature(logits, labels))
        expected = (count + DOUBTFUL / classes) / (count + DOUBTFUL)
        assert scores.mean() == pytest.approx(min(expected, confidence(logits)[0]), abs=2e-3)


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 60),
    classes=st.integers(2, 5),
    scale=st.floats(0.01, 100),
    seed=st.integers(0, 1 << 32),
)
def test_few_examples_never_make_scores_more_sure(count: int, classes: int, scale: float, seed: int) -> None:
    """Neither faultless logits, nor those of any accuracy."""
    generator = np.random.default_rng(seed)
    logits = scale * generator.normal(size=(count, classes))
    labels = np.where(generator.random(count) < generator.random(), logits.argmax(1), 0)
    temperature = fit_temperature(logits, labels)
    errors = (logits.argmax(1) != labels).sum()
    assert temperature >= 1 or errors >= 10
    assert fit_temperature(logits, logits.argmax(1)) >= 1


def test_errors_are_the_evidence_for_sharper_scores() -> None:
    logits, labels = calibrated(2000, 3)
    assert fit_temperature(0.3 * logits, labels) == pytest.approx(0.3, rel=0.1)
    right = logits.argmax(1) == labels
    assert fit_temperature(0.3 * logits[right], labels[right]) == 1.0


def test_well_calibrated_logits_are_seldom_sharpened_by_chance() -> None:
    drawn = [fit_temperature(*calibrated(100, 2, seed)) for seed in range(300)]
    assert sum(temperature < 1 for temperature in drawn) <= 3


def test_nothing_to_fit() -> None:
    assert fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64)) == 1.0
    assert fit_temperature(np.array([[3.0], [4.0]]), np.array([0, 0])) == 1.0


# ---- the error -----------------------------------------------------------------------------------------------------


def test_each_temperature_is_fitted_on_the_others() -> None:
    """A label that is changed moves every temperature but that of its own fold."""
    logits, labels = calibrated(500, 3)
    before = cross_fitted_temperatures(4 * logits, labels)
    assert len(set(before)) == 5
    changed = labels.copy()
    changed[7] = (labels[7] + 1) % 3
    after = cross_fitted_temperatures(4 * logits, changed)
    assert after[7] == before[7]
    np.testing.assert_array_equal(after == before, before == before[7])


def test_the_error_is_that_of_other_data() -> None:
    """With little data the fit flatters itself; cross-fitting comes nearer to the error on fresh examples."""
    flattered: list[float] = []
    fresh: list[float] = []
    crossed = []
    for seed in range(30):
        logits, labels = calibrated(300, 2, seed)
        temperature = fit_temperature(3 * logits, labels)
        others, other_labels = calibrated(300, 2, seed + 1000)
        crossed.append(cross_fitted_error(3 * logits, labels))
        for errors, some, gold in ((flattered, logits, labels), (fresh, others, other_labels)):
            scores = confidence(3 * some / temperature)
            errors.append(expected_calibration_error(scores, some.argmax(1) == gold))
    expected = float(np.mean(fresh))
    assert abs(np.mean([error for error in crossed if error is not None]) - expected) < 0.01
    assert np.mean(flattered) < expected


def test_a_calibration_says_what_it_could_not_do() -> None:
    none = Calibration.of(np.zeros((0, 2)), np.zeros(0, np.int64))
    assert (none.temperature, none.error) == (1.0, None) and "no validation examples" in none.remark
    weak = Calibration.of(*faultless(30, 2, 0.5))
    assert weak.temperature == 1.0 and "30 validation examples with 0 errors" in weak.remark
    strong = Calibration.of(*calibrated(1000, 2))
    assert strong.remark == "" and strong.error is not None and strong.error < 0.05


# ---- a head of few examples ----------------------------------------------------------------------------------------


def write(path: Path, rows: Sequence[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return str(path)


def test_thirty_faultless_examples_make_no_head_sure_of_everything(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Trained until its scores are 1: the mean top score on 200 texts of other words stays below 0.9."""
    chance = random.Random(0)
    words = {"animal": ["cat", "dog", "house"], "person": ["man", "woman", "city"]}
    rows = [
        {"text": f"the {chance.choice(words[label])} {chance.choice(['runs', 'eats', 'sees'])}", "label": label}
        for label in sorted(words) * 30
    ]
    train, validation = write(tmp_path / "train.jsonl", rows[:30]), write(tmp_path / "validation.jsonl", rows[30:])
    config = EncoderConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=48,
    )  # fmt: skip
    write_checkpoint(bundles.checkpoint(tokenizer, config=config), tmp_path / "base")
    head = HeadRecipe("classify", [train], [validation], batch_size=8, max_length=48)
    recipe = FinetuneRecipe(
        base=str(tmp_path / "base"), heads={"mine": head}, steps=150, rate=2e-3, head_rate=5e-3, threads=1,
        dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip
    made = finetune(recipe, tmp_path / "out")
    assert made.heads["mine"].metrics["accuracy"] == 1.0
    others = ["london", "anna", "new", "york", "red", "big", "old", ".", "?", "in", "who", "is", "smith", "small"]
    texts = [" ".join(chance.choices(others, k=chance.randint(1, 12))) for _ in range(200)]
    answers = CheckpointPredictor.of(made).predict("mine", texts, {"function_to_apply": "softmax"})
    top = [one.answer[0]["score"] for one in answers]
    assert len(top) == 200 and math.isfinite(sum(top)) and np.mean(top) < 0.9
    sure = CheckpointPredictor.of(made).predict("mine", texts, {"function_to_apply": "none"})
    temperature = made.heads["mine"].spec.temperature
    raw = [[choice["score"] * temperature for choice in one.answer] for one in sure]
    assert confidence(np.array(raw)).mean() > 0.97  # what it would be at T = 1
