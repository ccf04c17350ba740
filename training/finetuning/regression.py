"""A classifier on vectors that stay as they are: whitening where a pooler stands, then logistic regression.

The result is a head of the usual form, tanh(x·pooler + bias)·classifier + bias, without a step of gradient descent.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Classes = NDArray[np.int64]

SHRINKAGE = 0.3
"""Share of a ball in the scatter within classes: of 0.1 and 0.5, the first is better for 100 intents, by 0.8 points,
the second for 28 emotions, by 2.4."""
SQUASH = 0.5
"""What one deviation becomes before tanh, which bends what lies far from the mean."""
STRENGTH = 0.12
"""Inverse of the penalty on weights (scikit-learn's C); ten times as much costs 2 points of 28 emotions."""
ITERATIONS = 300


@dataclass(frozen=True)
class HeadWeights:
    """Weights of a classifier, to multiply from the right: pooler [H, H], [H] and classifier [H, C], [C]."""

    pooler: Floats
    pooler_bias: Floats
    classifier: Floats
    bias: Floats

    def logits(self, vectors: Floats) -> NDArray[np.float64]:
        """Compute [n, C] in float64: what the graph should give for vectors [n, H]."""
        pooled = np.tanh(vectors.astype(np.float64) @ self.pooler + self.pooler_bias)
        return np.asarray(pooled @ self.classifier + self.bias, np.float64)


def learn(vectors: Floats, labels: Classes) -> HeadWeights:
    """Fit a head on vectors [n, H] and their classes [n], of 0 to C - 1, each met once or more.

    Vectors are whitened by how they scatter within a class, as linear discriminant analysis does it (Hastie et al.,
    2009, 4.3): what varies though the class stays the same then counts little.
    """
    from sklearn.linear_model import LogisticRegression

    pooler: NDArray[Any] = SQUASH * whitening(vectors, labels)
    bias = -vectors.mean(axis=0) @ pooler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an answer close to the best one is good enough
        model = LogisticRegression(C=STRENGTH, max_iter=ITERATIONS).fit(np.tanh(vectors @ pooler + bias), labels)
    weights, offsets = model.coef_.T, model.intercept_
    if weights.shape[1] == 1:  # two classes: one logit against zero
        weights, offsets = np.hstack([-weights / 2, weights / 2]), np.concatenate([-offsets / 2, offsets / 2])
    return HeadWeights(*(np.ascontiguousarray(one, np.float32) for one in (pooler, bias, weights, offsets)))


def whitening(vectors: Floats, labels: Classes) -> NDArray[np.float64]:
    """Return the matrix [H, H] by which vectors [n, H] of one class scatter with deviation 1 in each direction."""
    count, width = int(labels.max()) + 1, vectors.shape[1]
    sums = np.zeros((count, width))
    np.add.at(sums, labels, vectors)
    means = sums / np.bincount(labels, minlength=count)[:, None]
    inside = vectors - means[labels]
    scatter = inside.T @ inside / max(1, len(vectors) - count)
    ball = np.trace(scatter) / width or float(vectors.var()) or 1.0  # one example of each class does not scatter
    values, axes = np.linalg.eigh((1 - SHRINKAGE) * scatter + SHRINKAGE * ball * np.eye(width))
    return np.asarray(axes / np.sqrt(values), np.float64)
