"""The figures of heads, each with the figure of chance on the same data.

All are fractions from 0 to 1 (losses are in nats). A score means little without a baseline: on MRPC, always answering
the majority class gives 68 %. So every `*_scores` function also computes the score of an answer that ignores the input
(`*_chance`).
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.run.results import HEADLINES

Scores = dict[str, float]
Span = tuple[str, int, int]  # type, first word, word after the last (or characters)


def headline(scores: Scores) -> str:
    """Name the most important figure: it decides early stopping and the parity gate."""
    return next(name for name in HEADLINES if name in scores)


def accuracy(gold: Sequence[Hashable], predicted: Sequence[Hashable]) -> float:
    """Return the share of equal pairs."""
    return sum(left == right for left, right in zip(gold, predicted, strict=True)) / len(gold)


def macro_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the unweighted mean F1 of the labels that occur in either (as scikit-learn counts them)."""
    hits = Counter(left for left, right in zip(gold, predicted, strict=True) if left == right)
    sizes = Counter(gold) + Counter(predicted)
    return sum(2 * hits[label] / sizes[label] for label in sizes) / len(sizes)


def confusion(gold: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Count pairs: row = gold label, column = predicted label."""
    index = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for left, right in zip(gold, predicted, strict=True):
        counts[index[left], index[right]] += 1
    return counts


def majority(gold: Iterable[Hashable]) -> tuple[Hashable, float]:
    """Return the most frequent value and its share, which is the accuracy of always answering it."""
    counts = Counter(gold)
    value, count = counts.most_common(1)[0]
    return value, count / counts.total()


def entropy(counts: Counter[Hashable]) -> float:
    """Return the entropy in nats, which is the loss of always answering the distribution of the data."""
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def label_scores(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
    """Score one label per item; chance always answers the most frequent label of the data."""
    common, share = majority(gold)
    return {
        "accuracy": accuracy(gold, predicted),
        "accuracy_chance": share,
        "macro_f1": macro_f1(gold, predicted),
        "macro_f1_chance": macro_f1(gold, [str(common)] * len(gold)),
    }


def spans_of(tags: Sequence[str]) -> set[Span]:
    """Read BIO tags as conlleval does: an I- without a span of its type before it starts a span."""
    spans: set[Span] = set()
    start = 0
    for end in range(1, len(tags) + 1):
        if end < len(tags) and tags[end][:2] == "I-" and tags[end][2:] == tags[start][2:]:
            continue
        if tags[start] != "O":
            spans.add((tags[start][2:], start, end))
        start = end
    return spans


def span_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> Scores:
    """Score spans; only those with both ends and the type are right (conlleval; Tjong Kim Sang & De Meulder, 2003).

    Chance marks every word as a span of the most frequent type; tagging nothing would score 0.
    """
    wanted = [spans_of(tags) for tags in gold]
    types = Counter(name for spans in wanted for name, _, _ in spans)
    common = types.most_common(1)[0][0] if types else ""
    guessed = [{(common, word, word + 1) for word in range(len(tags))} for tags in gold]
    return set_scores(wanted, [spans_of(tags) for tags in predicted]) | {
        "f1_chance": set_scores(wanted, guessed)["f1"],
        "spans": float(types.total()),
    }


def set_scores(wanted: Sequence[set[Span]], found: Sequence[set[Span]]) -> Scores:
    """Return precision, recall and F1 of the spans `found` in each text against those `wanted`."""
    right = sum(len(left & other) for left, other in zip(wanted, found, strict=True))
    gold_count, found_count = sum(map(len, wanted)), sum(map(len, found))
    return {
        "precision": right / found_count if found_count else 0.0,
        "recall": right / gold_count if gold_count else 0.0,
        "f1": 2 * right / (gold_count + found_count) if right else 0.0,
    }


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lowercase, and drop ASCII punctuation, articles and extra blanks, as SQuAD's evaluate-v2.0.py does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: Sequence[str]) -> float:
    """Return 1.0 if the prediction is one of the gold answers; without gold answers, "" is right."""
    return float(normalize_answer(prediction) in map(normalize_answer, _gold_answers(gold)))


def answer_f1(prediction: str, gold: Sequence[str]) -> float:
    """Return the word-overlap F1 with the closest gold answer."""
    return max(_overlap_f1(normalize_answer(prediction).split(), answer) for answer in _gold_words(gold))


def _gold_answers(gold: Sequence[str]) -> list[str]:
    return [answer for answer in gold if normalize_answer(answer)] or [""]


def _gold_words(gold: Sequence[str]) -> list[list[str]]:
    return [normalize_answer(answer).split() for answer in _gold_answers(gold)]


def _overlap_f1(prediction: list[str], gold: list[str]) -> float:
    if not prediction or not gold:
        return float(prediction == gold)
    common = (Counter(prediction) & Counter(gold)).total()
    return 2 * common / (len(prediction) + len(gold))


def answer_scores(gold: Sequence[Sequence[str]], predicted: Sequence[str], contexts: Sequence[str]) -> Scores:
    """Score answers, all together and separately for questions with and without one ("" means no answer).

    If the data has both, `balance` is the mean of the F1 of answerable questions and the accuracy (exact match) of
    unanswerable ones. Chance is the better of two: no answer at all, or a random span of each context with the length
    of a random gold answer.
    """
    guesses = _random_spans(gold, contexts)
    scores: Scores = {}
    for part, wanted in (("", None), ("answerable_", True), ("unanswerable_", False)):
        chosen = [index for index, answers in enumerate(gold) if wanted is None or bool(answers) is wanted]
        if not chosen:
            continue
        for name, score in (("f1", answer_f1), ("exact_match", exact_match)):
            scores[part + name] = _mean_score(score, gold, predicted, chosen)
            blind = [_mean_score(score, gold, guess, chosen) for guess in (guesses, [""] * len(gold))]
            scores[f"{part}{name}_chance"] = max(blind)
        scores[(part or "all_") + "questions"] = float(len(chosen))
    if "answerable_f1" in scores and "unanswerable_f1" in scores:
        scores["balance"] = (scores["answerable_f1"] + scores["unanswerable_exact_match"]) / 2
        scores["balance_chance"] = 0.5  # for no answer; a random span gets half of its F1
    return scores


def _mean_score(
    score: Callable[[str, Sequence[str]], float],
    gold: Sequence[Sequence[str]],
    predicted: Sequence[str],
    chosen: Sequence[int],
) -> float:
    return sum(score(predicted[index], gold[index]) for index in chosen) / len(chosen)


def _random_spans(gold: Sequence[Sequence[str]], contexts: Sequence[str]) -> list[str]:
    generator = np.random.default_rng(0)
    lengths = [len(answer.split()) for answers in gold for answer in answers[:1]] or [1]
    guesses = []
    for context in contexts:
        words = context.split()
        length = min(lengths[generator.integers(len(lengths))], len(words))
        start = generator.integers(len(words) - length + 1)
        guesses.append(" ".join(words[start : start + length]))
    return guesses


def expected_calibration_error(confidence: NDArray[np.floating], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal-width bins (Guo et al., 2017)."""
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(place, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def negative_log_likelihood(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean cross-entropy of `logits` [N, C] at `labels` [N], in nats."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    chosen = shifted[np.arange(len(labels)), labels]
    return float((np.log(np.exp(shifted).sum(axis=1)) - chosen).mean())
