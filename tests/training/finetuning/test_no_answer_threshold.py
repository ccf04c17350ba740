"""If these fail, a question head refuses too much or too little, or forgets questions that have an answer."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.finetuning.no_answer_threshold import best_threshold, fit_no_answer
from training.finetuning.unanswerable_questions import unanswerable
from training.text.examples import QuestionExample

question = st.tuples(st.integers(-5, 5).map(float), st.floats(0, 1), st.booleans())


def balance(margins: np.ndarray, scores: np.ndarray, answerable: np.ndarray, threshold: float) -> float:
    refused = margins > threshold
    return float(np.where(refused, 0, scores)[answerable].mean() + refused[~answerable].mean()) / 2


@given(st.lists(question, min_size=2, max_size=20).filter(lambda rows: len({row[2] for row in rows}) == 2))
def test_no_other_threshold_is_better(rows: list[tuple[float, float, bool]]) -> None:
    margins, scores, answerable = (np.array(column) for column in zip(*rows, strict=True))
    found = balance(margins, scores, answerable, best_threshold(margins, scores, answerable))
    assert found == pytest.approx(max(balance(margins, scores, answerable, t) for t in np.arange(-7, 7, 0.25)))


CITIES = ["Paris", "Rome", "Oslo", "Bern", "Lima", "Cairo", "Quito", "Sofia"]


def examples() -> list[QuestionExample]:
    found = []
    for number, city in enumerate(CITIES):
        context = f"The mayor of {city} opened bridge {number}. The people of {city} crossed the river in boats before."
        asked, answer = f"Which bridge did the mayor of {city} open?", f"bridge {number}"
        found.append(QuestionExample(f"q{number}", context, asked, [answer], [context.index(answer)]))
    return found


def test_made_questions_share_words_with_a_context_that_has_no_gold_answer() -> None:
    given_examples = examples()
    made = unanswerable(given_examples, 1.0, np.random.default_rng(0))
    assert len(made) == len(given_examples)
    contexts = {example.question: example.context for example in given_examples}
    for one, before in zip(made, given_examples, strict=True):
        assert not one.answers and not one.starts and one.question == before.question
        assert one.context != contexts[one.question] and one.context in contexts.values()
        assert not any(answer in one.context for answer in before.answers)
        assert set(one.question.lower().split()) & set(one.context.lower().split())


def test_as_many_are_made_as_asked_for_and_the_same_ones_again() -> None:
    given_examples = examples()
    half = unanswerable(given_examples, 0.5, np.random.default_rng(3))
    assert len(half) == 4 and half == unanswerable(given_examples, 0.5, np.random.default_rng(3))
    assert unanswerable(given_examples[:1], 1.0, np.random.default_rng(0)) == []
    assert unanswerable(given_examples, 0.0, np.random.default_rng(0)) == []


@pytest.mark.parametrize("count", [0, 8])
def test_few_questions_fit_nothing(count: int) -> None:
    predictor: Any = None  # is not asked
    assert fit_no_answer(predictor, "qa", examples()[:count]) is None
