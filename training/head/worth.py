"""How good a head is: its most important figure, beside chance and a bag of words trained on the same rows."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from training.evaluation.metrics import headline
from training.run.progress import count_of
from training.text.examples import Example, PairExample, TextExample

QUICK = 400_000
"""Maximum rows times labels for which logistic regression on a bag of words takes seconds."""
FEW = 500
"""With fewer validation examples, a figure is printed with its uncertainty."""


def bag_of_words(training: Sequence[Example], validation: Sequence[Example], strength: float = 10.0) -> float | None:
    """Return the accuracy on `validation` of tf-idf with logistic regression; None if it would not be quick.

    Words of the two texts of a pair are different features. `strength` is the inverse of the regularization.
    """
    labels = [getattr(example, "label", None) for example in training]
    if not validation or not all(isinstance(label, str) for label in labels):
        return None
    if len(training) * len(set(labels)) > QUICK or len(set(labels)) < 2:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model: Any = make_pipeline(TfidfVectorizer(analyzer=words), LogisticRegression(C=strength))
    model.fit(list(training), labels)
    return float(model.score(list(validation), [getattr(example, "label", None) for example in validation]))


def words(example: Example) -> list[str]:
    """Return the lowercased words of an example."""
    if isinstance(example, PairExample):
        return [f"{side} {word}" for side, text in enumerate((example.text_a, example.text_b)) for word in split(text)]
    assert isinstance(example, TextExample)
    return split(example.text)


def split(text: str) -> list[str]:
    """Return words as scikit-learn splits them by default, including those of one letter."""
    return re.findall(r"\w+", text.lower())


def worth(scores: Mapping[str, float], words_alone: float | None) -> list[str]:
    """Return sentences on how good a head is, from its scores on validation data."""
    if "examples" not in scores:
        return ["result: there is no validation data, so nothing was measured; add --validation FILE"]
    metric = headline(dict(scores))
    beside = [f"chance {scores[f'{metric}_chance']:.3f}"] if f"{metric}_chance" in scores else []
    if words_alone is not None:
        beside.append(f"a bag of words {words_alone:.3f}")
    count = int(scores["examples"])
    told = [f"result: {metric} {scores[metric]:.3f} on {count_of(count, 'validation example')} ({', '.join(beside)})"]
    if count < FEW:
        told.append(f"note: {_roughness(metric, scores[metric], count)}; add examples to --validation")
    if words_alone is not None and scores[metric] <= words_alone < 1:  # nothing is better than a right answer each time
        told.append("note: a bag of words does as well; train without --freeze, for more epochs, or add examples")
    return told


def _roughness(metric: str, value: float, count: int) -> str:
    """Return the uncertainty of a figure: for a share, the 95 % interval (Agresti & Coull, 1998)."""
    few = f"{count_of(count, 'validation example')} {'is' if count == 1 else 'are'} few"
    if metric != "accuracy":
        return f"{few}, so {metric} is uncertain"
    share = (value * count + 2) / (count + 4)
    return f"{few}, so accuracy is known to ± {2 * math.sqrt(share * (1 - share) / (count + 4)):.2f} (95 %)"
