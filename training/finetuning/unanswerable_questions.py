"""Generates questions without an answer from those with one, at no cost in labels.

A question is moved to another context that shares its words, so it looks answerable there. (Rajpurkar et al., 2018,
explain why random contexts teach nothing.) Contexts with one of the gold answers are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix, diags

from training.text.examples import QuestionExample

WORDS = re.compile(r"\w+")
NEAREST = 8
"""Contexts to draw from: always taking the nearest would repeat the same few contexts."""
AT_A_TIME = 512


def unanswerable(examples: Sequence[QuestionExample], share: float, rng: np.random.Generator) -> list[QuestionExample]:
    """Return random questions without an answer: `share` times the number of answerable ones in `examples`."""
    answered = [example for example in examples if example.answers]
    count = min(round(share * len(answered)), len(answered))
    chosen = [answered[number] for number in sorted(rng.permutation(len(answered))[:count].tolist())]
    contexts = list(dict.fromkeys(example.context for example in examples))
    if count == 0 or len(contexts) < 2:
        return []
    matrix = _weighted([example.question for example in chosen], contexts)
    made = []
    for start in range(0, count, AT_A_TIME):
        nearness = matrix[0][start : start + AT_A_TIME] @ matrix[1]
        for example, row in zip(chosen[start : start + AT_A_TIME], nearness, strict=True):
            made += _asked_elsewhere(example, contexts, row, rng)
    return made


def _asked_elsewhere(
    example: QuestionExample, contexts: Sequence[str], row: csr_matrix, rng: np.random.Generator
) -> list[QuestionExample]:
    """Move a question to one of the nearest contexts that shares a word and has no gold answer, if there is one."""
    answers = [answer.casefold() for answer in example.answers]
    order = row.indices[np.argsort(-row.data, kind="stable")].tolist()
    near: list[str] = []
    for number in order:
        text = contexts[number].casefold()
        if contexts[number] != example.context and not any(answer in text for answer in answers):
            near.append(contexts[number])
        if len(near) == NEAREST:
            break
    if not near:
        return []
    context = near[int(rng.integers(len(near)))]
    return [replace(example, id=f"{example.id}-elsewhere", context=context, answers=[], starts=[])]


def _weighted(questions: Sequence[str], contexts: Sequence[str]) -> tuple[csr_matrix, csr_matrix]:
    """Return question words [Q, V] and contexts [V, C]; their product measures shared words, weighted by rarity."""
    numbers: dict[str, int] = {}
    counted = [_counts(texts, numbers) for texts in (contexts, questions)]
    holds, asks = (csr_matrix((np.ones(len(c)), c, r), (len(r) - 1, len(numbers))) for c, r in counted)
    weights = np.log1p(len(contexts) / np.maximum(1, np.asarray(holds.sum(axis=0)).ravel()))
    lengths = np.sqrt(np.maximum(1, np.asarray(holds.sum(axis=1)).ravel()))
    return csr_matrix(asks @ diags(weights)), csr_matrix((diags(1 / lengths) @ holds).T)


def _counts(texts: Sequence[str], numbers: dict[str, int]) -> tuple[list[int], list[int]]:
    """Return columns and row pointers of a matrix of the words in each text; new words get numbers."""
    columns: list[int] = []
    pointers = [0]
    for text in texts:
        columns += sorted({numbers.setdefault(word, len(numbers)) for word in WORDS.findall(text.casefold())})
        pointers.append(len(columns))
    return columns, pointers
