"""If these fail, spans are counted for the wrong type, or an error gets the wrong name."""

import warnings
from typing import Any

import numpy as np
import pytest

from models.task import HeadSpec
from tests.training.evaluation.scripted import Answers
from training.evaluation.report import report_of
from training.evaluation.report_figures import NONE
from training.evaluation.report_plots import confusion_matrix
from training.evaluation.span_errors import matches
from training.text.examples import Example, SpannedText, TaggedExample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # seqeval's build leaves invalid metadata behind, which its import meets
    from seqeval.metrics import classification_report  # type: ignore[import-untyped]
    from seqeval.scheme import IOB2  # type: ignore[import-untyped]

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def random_tags(generator: np.random.Generator, length: int) -> list[str]:
    tags = ["O"]
    for _ in range(length):
        following = [tag for tag in TAGS if not tag.startswith("I-") or tag[2:] == tags[-1][2:]]
        tags.append(str(generator.choice(following)))
    return tags[1:]


def units(words: list[str], tags: list[str], scores: list[float]) -> list[dict[str, Any]]:
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    return [
        {"entity": tag, "score": score, "start": int(start), "end": int(start) + len(word)}
        for word, tag, score, start in zip(words, tags, scores, starts[:-1], strict=True)
    ]


def test_types_are_those_of_seqeval() -> None:
    generator = np.random.default_rng(0)
    gold = [random_tags(generator, 12) for _ in range(80)]
    found = [tags if generator.random() < 0.5 else random_tags(generator, 12) for tags in gold]
    words = [f"w{number}" for number in range(12)]
    examples: list[Example] = [TaggedExample(words, tags) for tags in gold]
    answers = [units(words, tags, [0.5] * 12) for tags in found]
    report = report_of(Answers(HeadSpec("tag", TAGS), answers), "ner", examples)
    theirs = classification_report(gold, found, scheme=IOB2, mode="strict", output_dict=True)
    for one in report.classes:
        expected = theirs[one.label]
        assert (one.precision, one.recall, one.f1, one.support) == pytest.approx(
            (expected["precision"], expected["recall"], expected["f1-score"], expected["support"])
        )
    errors, support, seen = (
        report.errors,
        sum(one.support for one in report.classes),
        sum(one.found for one in report.classes),
    )
    both = sum(count for kind, count in errors.items() if kind not in ("missed", "spurious"))
    assert both + errors["missed"] == support and both + errors["spurious"] == seen
    assert len(report.wrong) == sum(errors.values()) - errors["right"]
    names, counts = confusion_matrix(report)
    assert names == ["PER", "LOC", NONE]
    assert counts.sum(axis=1)[:2].tolist() == [one.support for one in report.classes]
    assert counts.sum(axis=0)[:2].tolist() == [one.found for one in report.classes]
    assert report.thresholds[0].recall == pytest.approx(report.scores["recall"])
    assert report.thresholds[0].precision == pytest.approx(report.scores["precision"])


def test_errors_have_the_names_of_their_kinds() -> None:
    wanted = {("PER", 0, 4), ("LOC", 6, 9), ("ORG", 10, 20), ("ORG", 30, 40), ("PER", 50, 54)}
    found = {("PER", 0, 4), ("ORG", 6, 9), ("ORG", 12, 20), ("LOC", 30, 35), ("ORG", 36, 38), ("LOC", 60, 64)}
    kinds = {(match.wanted, match.found): match.kind for match in matches(wanted, found)}
    assert kinds == {
        (("PER", 0, 4), ("PER", 0, 4)): "right",
        (("LOC", 6, 9), ("ORG", 6, 9)): "wrong type",
        (("ORG", 10, 20), ("ORG", 12, 20)): "wrong boundaries",
        (("ORG", 30, 40), ("ORG", 36, 38)): "wrong boundaries",  # its own type comes before the longer overlap
        (("PER", 50, 54), None): "missed",
        (None, ("LOC", 30, 35)): "spurious",
        (None, ("LOC", 60, 64)): "spurious",
    }
    assert [match.kind for match in matches({("PER", 0, 4)}, {("LOC", 2, 6)})] == ["wrong type and boundaries"]


def test_wrong_spans_name_their_words_and_missed_ones_come_last() -> None:
    example = SpannedText("Jo-Ann left Köln for Bonn.", [(0, 6, "PER"), (12, 16, "LOC"), (21, 25, "LOC")])
    answer = [
        {"entity_group": "PER", "score": 0.6, "start": 0, "end": 2},
        {"entity_group": "PER", "score": 0.9, "start": 12, "end": 16},
    ]
    report = report_of(Answers(HeadSpec("tag", TAGS), [answer]), "ner", [example])
    shown = [(one["error"], one["score"], (one["expected"] or one["found"])["word"]) for one in report.wrong]
    assert shown == [("wrong type", 0.9, "Köln"), ("wrong boundaries", 0.6, "Jo-Ann"), ("missed", None, "Bonn")]
    assert [(one.expected, one.found, one.count) for one in report.pairs] == [("LOC", NONE, 1), ("LOC", "PER", 1)]
    assert any(line.startswith("0.90  PER 'Köln', expected LOC 'Köln'") for line in report.lines())


def test_texts_and_words_count_together() -> None:
    class Both(Answers):
        def predict(self, head: str, inputs: Any, parameters: Any) -> Any:
            self.answers = [spans] if parameters["aggregation_strategy"] == "simple" else [words]
            return super().predict(head, inputs, parameters)

    spans = [{"entity_group": "LOC", "score": 0.9, "start": 0, "end": 4}]
    words = units(["Köln", "Zoo"], ["B-LOC", "I-LOC"], [0.8, 0.6])
    examples: list[Example] = [SpannedText("Köln", [(0, 4, "LOC")]), TaggedExample(["Köln", "Zoo"], ["B-LOC", "I-LOC"])]
    report = report_of(Both(HeadSpec("tag", TAGS), []), "ner", examples)
    assert report.errors["right"] == 2 and [one.score for one in report.bins] == pytest.approx([0.7, 0.9])


def test_plain_tags_are_classes_of_words() -> None:
    example = TaggedExample(["a", "b", "c"], ["NOUN", "VERB", "NOUN"])
    answer = units(["a", "b", "c"], ["NOUN", "NOUN", "NOUN"], [0.9, 0.8, 0.7])
    report = report_of(Answers(HeadSpec("tag", ["NOUN", "VERB"]), [answer]), "pos", [example])
    assert [(one.label, one.right, one.support) for one in report.classes] == [("NOUN", 2, 2), ("VERB", 0, 1)]
    assert report.wrong == [{"text": "a b c", "word": "b", "expected": "VERB", "found": "NOUN", "score": 0.8}]
    assert report.slices[0].figure == pytest.approx(2 / 3) and not report.errors


def test_a_head_that_finds_nothing_has_a_report() -> None:
    report = report_of(Answers(HeadSpec("tag", TAGS), [[]]), "ner", [SpannedText("Köln", [(0, 4, "LOC")])])
    assert (report.bins, report.thresholds, report.errors["missed"]) == ([], [], 1) and report.lines()
