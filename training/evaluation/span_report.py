"""Reports of tag: spans by type with the kinds of errors, or the plain tags of words."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.evaluation.class_figures import class_figures, confused_pairs
from training.evaluation.class_report import by_confidence, choice_parts
from training.evaluation.evaluate import character_spans, word_offsets
from training.evaluation.length_slices import lengths_of, slices
from training.evaluation.metrics import Span, set_scores, spans_of
from training.evaluation.reliability import bins, thresholds
from training.evaluation.report_figures import NONE
from training.evaluation.span_errors import KINDS, MISSED, RIGHT, SPURIOUS, Match, matches
from training.text.examples import SpannedText, TaggedExample, is_bio

Example = TaggedExample | SpannedText


@dataclass(frozen=True)
class Tagging:
    """A text, its spans in characters, and the found spans with their scores."""

    text: str
    wanted: set[Span]
    found: dict[Span, float]

    @cached_property
    def matches(self) -> list[Match]:
        return list(matches(self.wanted, set(self.found)))


def tag_parts(
    examples: Sequence[Example], answers: Sequence[Sequence[Any]], spec: HeadSpec, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return the parts of a report; `answers` has those for running texts, if any, then those for given words.

    The score of a span of given words is the mean probability of its tags, not summed over B- and I-. `/tag` never
    gives a lower score.
    """
    words = [one for one in examples if isinstance(one, TaggedExample)]
    texts = [one for one in examples if isinstance(one, SpannedText)]
    if not is_bio(spec.labels) and not texts:
        return _word_parts(words, answers[0], spec, tokenizer)
    tagged = [_of_text(one, answer) for one, answer in zip(texts, answers[0], strict=True)] if texts else []
    tagged += [_of_words(one, answer) for one, answer in zip(words, answers[-1], strict=True)] if words else []
    return span_parts(tagged, _types(spec.labels), lengths_of([one.text for one in tagged], tokenizer))


def _types(labels: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(label[2:] if label[:2] in ("B-", "I-") else label for label in labels if label != "O"))


def _of_text(example: SpannedText, answer: Sequence[dict[str, Any]]) -> Tagging:
    found = {(span["entity_group"], span["start"], span["end"]): float(span["score"]) for span in answer}
    return Tagging(example.text, {(name, start, end) for start, end, name in example.spans}, found)


def _of_words(example: TaggedExample, answer: Sequence[dict[str, Any]]) -> Tagging:
    offsets = word_offsets(example.tokens)
    units = {unit["start"]: (str(unit["entity"]), float(unit["score"])) for unit in answer}
    tags, scores = zip(*(units.get(start, ("O", 0.0)) for start, _ in offsets), strict=True)
    found = {
        (name, offsets[first][0], offsets[stop - 1][1]): float(np.mean(scores[first:stop]))
        for name, first, stop in spans_of(tags)
    }
    return Tagging(" ".join(example.tokens), character_spans(example.tags, offsets), found)


def span_parts(tagged: Sequence[Tagging], types: Sequence[str], lengths: Sequence[int]) -> dict[str, Any]:
    """Return the parts of a report on spans of texts; only spans with both boundaries and the type are right."""
    every = [match for one in tagged for match in one.matches]
    kinds = Counter(match.kind for match in every)
    scores = np.array([score for one in tagged for score in one.found.values()])
    right = np.array([span in one.wanted for one in tagged for span in one.found], dtype=bool)

    def f1(chosen: list[int]) -> float:
        return set_scores([tagged[n].wanted for n in chosen], [set(tagged[n].found) for n in chosen])["f1"]

    wanted = [name for one in tagged for name, _, _ in one.wanted]
    return {
        "classes": class_figures(
            wanted,
            (name for one in tagged for name, _, _ in one.found),
            (name for one in tagged for name, _, _ in one.wanted & one.found.keys()),
            types,
        ),
        "confused": confused_pairs(_type_pair(match) for match in every if match.kind != RIGHT),
        "bins": bins(scores, right) if len(scores) else [],
        "thresholds": thresholds(scores, right, len(wanted)),
        "slices": slices(lengths, f1),
        "slice_figure": "span F1",
        "errors": {kind: kinds[kind] for kind in KINDS},
        "wrong": by_confidence([_wrong(one, match) for one in tagged for match in one.matches if match.kind != RIGHT]),
    }


def _type_pair(match: Match) -> tuple[str, str]:
    return match.wanted[0] if match.wanted else NONE, match.found[0] if match.found else NONE


def _wrong(one: Tagging, match: Match) -> dict[str, Any]:
    return {
        "text": one.text,
        "error": match.kind,
        "expected": None if match.kind == SPURIOUS else _shown(one.text, match.wanted),
        "found": None if match.kind == MISSED else _shown(one.text, match.found),
        "score": one.found[match.found] if match.found else None,
    }


def _shown(text: str, span: Span | None) -> dict[str, Any] | None:
    return span and {"type": span[0], "start": span[1], "end": span[2], "word": text[span[1] : span[2]]}


def _word_parts(
    examples: Sequence[TaggedExample], answers: Sequence[Any], spec: HeadSpec, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    """Return the parts of a report on words with plain tags."""
    gold, found, scores, wrong, right = [], [], [], [], []
    for example, answer in zip(examples, answers, strict=True):
        units = {unit["start"]: (str(unit["entity"]), float(unit["score"])) for unit in answer}
        text, tags = " ".join(example.tokens), [units.get(s, ("O", 0.0)) for s, _ in word_offsets(example.tokens)]
        right.append([tag == other for tag, (other, _) in zip(example.tags, tags, strict=True)])
        gold += example.tags
        found += [tag for tag, _ in tags]
        scores += [score for _, score in tags]
        wrong += [
            {"text": text, "word": word, "expected": tag, "found": other, "score": score}
            for word, tag, (other, score) in zip(example.tokens, example.tags, tags, strict=True)
            if tag != other
        ]

    def accuracy(chosen: list[int]) -> float:
        return float(np.mean([one for number in chosen for one in right[number]]))

    lengths = lengths_of([" ".join(example.tokens) for example in examples], tokenizer)
    parts = choice_parts(gold, found, scores, spec.labels)
    return {**parts, "slices": slices(lengths, accuracy), "wrong": by_confidence(wrong)}
