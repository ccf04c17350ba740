"""Reports of qa and fill-mask: answers that are texts."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from models.tokenizer import Tokenizer
from training.evaluation.class_figures import class_figures, confused_pairs
from training.evaluation.class_report import by_confidence
from training.evaluation.length_slices import lengths_of, slices
from training.evaluation.masked_passages import masked_passages
from training.evaluation.metrics import answer_f1, exact_match
from training.evaluation.reliability import bins, thresholds
from training.text.examples import Document, QuestionExample

ANSWER, NO_ANSWER = "answer", "no answer"


def answer_parts(
    examples: Sequence[QuestionExample], answers: Sequence[dict[str, Any]], tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return the parts of a report on questions; only an exact match is right, and lengths are of contexts."""
    found = [str(answer["answer"]) for answer in answers]
    scores = np.array([float(answer["score"]) for answer in answers])
    pairs = list(zip(found, examples, strict=True))
    f1 = np.array([answer_f1(text, example.answers) for text, example in pairs])
    right = np.array([exact_match(text, example.answers) for text, example in pairs]) == 1.0
    wrong = [
        {
            "question": example.question,
            "context": example.context,
            "expected": example.answers,
            "found": found[row],
            "score": float(scores[row]),
            "f1": float(f1[row]),
        }
        for row, example in enumerate(examples)
        if not right[row]
    ]
    return {
        **_kinds(examples, found),
        "bins": bins(scores, right),
        "thresholds": thresholds(scores, right),
        "slices": slices(
            lengths_of([example.context for example in examples], tokenizer), lambda chosen: float(f1[chosen].mean())
        ),
        "slice_figure": "F1",
        "wrong": by_confidence(wrong),
    }


def _kinds(examples: Sequence[QuestionExample], found: Sequence[str]) -> dict[str, Any]:
    """Return how well the head recognizes questions without an answer, if the data has any."""
    if all(example.answers for example in examples):
        return {}
    gold = [ANSWER if example.answers else NO_ANSWER for example in examples]
    kinds = [ANSWER if text else NO_ANSWER for text in found]
    pairs = list(zip(gold, kinds, strict=True))
    agreed = [left for left, other in pairs if left == other]
    return {
        "classes": class_figures(gold, kinds, agreed, [ANSWER, NO_ANSWER]),
        "confused": confused_pairs(pair for pair in pairs if pair[0] != pair[1]),
    }


class Masked(NamedTuple):
    """The answer of a head for one mask."""

    expected: str
    found: str
    score: float
    right: bool


def mask_parts(examples: Sequence[Document], answers: Sequence[Any], tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the parts of a report on the masked tokens of documents; lengths are of passages."""
    assert tokenizer is not None  # without a tokenizer, nothing was masked
    passages = masked_passages(examples, tokenizer)
    masked = [list(_masks(passage.gold, answer, tokenizer)) for passage, answer in zip(passages, answers, strict=True)]
    every = [one for each in masked for one in each]
    scores, right = np.array([one.score for one in every]), np.array([one.right for one in every])
    wrong = [
        {"text": passage.text, "mask": number, "expected": one.expected, "found": one.found, "score": one.score}
        for passage, each in zip(passages, masked, strict=True)
        for number, one in enumerate(each)
        if not one.right
    ]

    def accuracy(chosen: list[int]) -> float:
        return float(np.mean([one.right for number in chosen for one in masked[number]]))

    return {
        "bins": bins(scores, right),
        "thresholds": thresholds(scores, right),
        "slices": slices([len(passage.ids) for passage in passages], accuracy),
        "wrong": by_confidence(wrong),
    }


def _masks(gold: Sequence[int], answer: Any, tokenizer: Tokenizer) -> Iterator[Masked]:
    choices = answer if isinstance(answer[0], list) else [answer]  # one mask: a flat list
    for token, (best, *_) in zip(gold, choices, strict=True):
        found = tokenizer.token(best["token"])
        yield Masked(tokenizer.token(token), found, float(best["score"]), best["token"] == token)
