"""Questions that their context does not answer, made from those that one does: they cost no labels.

A question is asked of another context that shares its words, so that it looks as if it were answered there (Rajpurkar
et al., 2018, describe why random contexts teach nothing). Contexts that hold one of the gold answers are left out.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix, diags

from training.text.examples import QuestionExample

WORDS = re.compile(r"\w+")
NEAREST = 8
"""Contexts to draw from: always the nearest one would bring the same few contexts again and again."""
AT_A_TIME = 512


def unanswerable(examples: Sequence[QuestionExample], share: float, rng: np.random.Generator) -> list[QuestionExample]:
    """Return `share` times as many questions as `examples` has with an answer, drawn at random, each without one."""
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
    """Ask a question of one of the nearest contexts, if there is one that shares a word and has no gold answer."""
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
    """Question words [Q, V] and contexts [V, C], whose product is how much they share, rare words counting most."""
    numbers: dict[str, int] = {}
    counted = [_counts(texts, numbers) for texts in (contexts, questions)]
    holds, asks = (csr_matrix((np.ones(len(c)), c, r), (len(r) - 1, len(numbers))) for c, r in counted)
    weights = np.log1p(len(contexts) / np.maximum(1, np.asarray(holds.sum(axis=0)).ravel()))
    lengths = np.sqrt(np.maximum(1, np.asarray(holds.sum(axis=1)).ravel()))
    return csr_matrix(asks @ diags(weights)), csr_matrix((diags(1 / lengths) @ holds).T)


def _counts(texts: Sequence[str], numbers: dict[str, int]) -> tuple[list[int], list[int]]:
    """Columns and row pointers of a matrix that says which words a text holds; new words are numbered."""
    columns: list[int] = []
    pointers = [0]
    for text in texts:
        columns += sorted({numbers.setdefault(word, len(numbers)) for word in WORDS.findall(text.casefold())})
        pointers.append(len(columns))
    return columns, pointers
