"""If these fail, a head that is fitted without gradient descent is not what its formulas say."""

import numpy as np
import pytest
from sklearn.covariance import shrunk_covariance

from training.finetuning.regression import SHRINKAGE, learn, whitening


def made(classes: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors [n, 12] around a mean of their class, stretched along some axes, and the classes [n]."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    noise = rng.normal(size=(len(labels), 12)) * np.geomspace(0.1, 10, 12)
    return (rng.normal(size=(classes, 12))[labels] + noise).astype(np.float32), labels


def test_whitening_inverts_the_shrunk_scatter_within_classes() -> None:
    vectors, labels = made(3, 50)
    inside = np.concatenate([vectors[labels == label] - vectors[labels == label].mean(0) for label in range(3)])
    scatter = inside.astype(float).T @ inside / (len(vectors) - 3)
    found = whitening(vectors, labels)
    np.testing.assert_allclose(found.T @ shrunk_covariance(scatter, SHRINKAGE) @ found, np.eye(12), atol=1e-5)


@pytest.mark.parametrize(("classes", "each"), [(2, 40), (5, 40), (5, 1)])
def test_a_fitted_head_tells_its_classes_apart(classes: int, each: int) -> None:
    vectors, labels = made(classes, each)
    weights = learn(vectors, labels)
    assert weights.pooler.shape == (12, 12) and weights.classifier.shape == (12, classes)
    logits = weights.logits(vectors)
    assert logits.shape == (len(vectors), classes) and np.isfinite(logits).all()
    assert (logits.argmax(1) == labels).mean() > (0.75 if each > 1 else 0.99)
