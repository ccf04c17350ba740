"""If these fail, a report contradicts the answers of its head, or does not fit a terminal or a file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from rich.cells import cell_len
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    classification_report,
    confusion_matrix,
    f1_score,
    mean_absolute_error,
    precision_recall_fscore_support,
)

from models.task import HeadSpec
from models.tokenizer import Tokenizer
from tests.training.evaluation.scripted import Answers, ranked
from training.errors import EvaluationError
from training.evaluation.class_report import class_parts, label_parts, number_parts
from training.evaluation.masked_passages import masked_passages
from training.evaluation.report import read_report, report_of, write_report
from training.evaluation.report_figures import NONE, Report
from training.evaluation.report_plots import confusion_matrix as matrix_of
from training.text.examples import Document, Example, PairExample, QuestionExample, TextExample


def classes(count: int, examples: int, seed: int = 0) -> tuple[Answers, list[Example], Any]:
    """A classifier of random scores that is often right; and its probabilities [examples, classes]."""
    generator = np.random.default_rng(seed)
    labels = [f"class_{number:03}_with_quite_a_long_name" for number in range(count)]
    gold = generator.integers(0, count, examples)
    logits = generator.normal(size=(examples, count))
    logits[np.arange(examples), gold] += 2
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    texts = [" ".join(["word"] * int(length)) for length in generator.integers(1, 30, examples)]
    made: list[Example] = [TextExample(text, labels[label]) for text, label in zip(texts, gold, strict=True)]
    return Answers(HeadSpec("classify", labels), [ranked(labels, row) for row in scores]), made, scores


def gold_of(examples: list[Example]) -> list[str]:
    return [str(getattr(example, "label", "")) for example in examples]


@pytest.mark.parametrize("count", [2, 5, 151])
def test_classes_are_those_of_scikit_learn(count: int) -> None:
    predictor, examples, scores = classes(count, 600)
    report = report_of(predictor, "intent", examples)
    gold, labels = gold_of(examples), predictor.spec.labels
    found = [labels[place] for place in scores.argmax(axis=1)]
    expected = classification_report(gold, found, labels=labels, output_dict=True, zero_division=0)
    for one in report.classes:
        theirs = expected[one.label]
        assert (one.precision, one.recall, one.f1) == pytest.approx(
            (theirs["precision"], theirs["recall"], theirs["f1-score"])
        )
        assert one.support == theirs["support"]
    names, counts = matrix_of(report)
    assert names == labels and np.array_equal(counts, confusion_matrix(gold, found, labels=labels))
    assert predictor.calls == 1 and report.scores["examples"] == 600


def test_reliability_is_that_of_scikit_learn() -> None:
    predictor, examples, scores = classes(5, 900)
    report = report_of(predictor, "intent", examples)
    right = scores.argmax(axis=1) == [predictor.spec.labels.index(label) for label in gold_of(examples)]
    share, mean = calibration_curve(right, scores.max(axis=1), n_bins=15, strategy="uniform")
    assert [one.right for one in report.bins] == pytest.approx(share)
    assert [one.score for one in report.bins] == pytest.approx(mean)
    gap = sum(one.count * abs(one.score - one.right) for one in report.bins) / 900
    assert report.scores["calibration_error"] == pytest.approx(gap)


def test_thresholds_keep_what_classify_keeps() -> None:
    predictor, examples, scores = classes(5, 300)
    best = scores.max(axis=1)
    right = scores.argmax(axis=1) == [predictor.spec.labels.index(label) for label in gold_of(examples)]
    for one in report_of(predictor, "intent", examples).thresholds:
        kept = best >= one.threshold
        assert one.kept == kept.mean()
        assert one.precision == (right[kept].mean() if kept.any() else None)


@pytest.mark.parametrize("count", [2, 151])
def test_the_terminal_has_80_columns_and_shows_the_worst_classes(count: int) -> None:
    predictor, examples, _ = classes(count, 600)
    examples = [TextExample("長い文" * 60, label) for label in gold_of(examples)]
    report = report_of(predictor, "intent" * 20, examples)
    lines = report.lines()
    assert max(map(cell_len, lines)) <= 80
    worst = sorted(report.classes, key=lambda one: one.f1)[:15]
    assert all(any(line.startswith(one.label[:25]) for line in lines) for one in worst)
    assert any("the 15 worst of 151" in line for line in lines) == (count == 151)


def test_files_hold_all_classes_and_every_wrong_answer(tmp_path: Path, pictures: None) -> None:
    predictor, examples, _ = classes(151, 600)
    report = report_of(predictor, "intent", examples)
    (tmp_path / "residuals.png").write_bytes(b"of an older report")
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "confusion.png", "reliability.png", "report.json", "wrong.jsonl",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.glob("*.png"))
    wrong = [json.loads(line) for line in (tmp_path / "wrong.jsonl").read_text(encoding="utf8").splitlines()]
    assert len(wrong) == round(600 * (1 - report.scores["accuracy"])) and wrong == report.wrong
    assert [one["score"] for one in wrong] == sorted((one["score"] for one in wrong), reverse=True)
    assert all(one["expected"] != one["found"] and one["text"] for one in wrong)
    read = read_report(tmp_path)
    assert read and read.classes == report.classes and read.slices == report.slices and not read.wrong
    write_report(report, tmp_path, wrong=False)
    assert not (tmp_path / "wrong.jsonl").exists()


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None
    (tmp_path / "report.json").write_text('{"head": 3}', encoding="utf8")
    with pytest.raises(EvaluationError, match="report.json: .*, expected a report of evaluate; measure the head again"):
        read_report(tmp_path)


def test_lengths_are_tokens_of_both_texts(tokenizer: Tokenizer) -> None:
    labels = ["no", "yes"]
    examples: list[Example] = [PairExample("the cat", "the dog " * n, "yes") for n in range(1, 9)]
    predictor = Answers(HeadSpec("pair", labels), [ranked(labels, [0.4, 0.6])] * 8, tokenizer)
    report = report_of(predictor, "nli", examples)
    assert report.length_unit == "tokens" and report.slices[0].shortest == 4 and report.slices[-1].longest == 18
    predictor.tokenizer = None
    assert report_of(predictor, "nli", examples).length_unit == "words"
    assert all({"text", "text_pair"} <= one.keys() for one in report.wrong)


# ---- several labels, numbers -----------------------------------------------------------------------------------------


class Labeled(NamedTuple):
    """A text with labels or a number, as examples will hold them."""

    text: str
    label: Any


def test_several_labels_are_those_of_scikit_learn() -> None:
    generator, labels = np.random.default_rng(1), ["a", "b", "c"]
    gold = generator.random((90, 3)) < [0.5, 0.25, 0.04]
    scores = np.clip(gold * 0.3 + generator.random((90, 3)) * 0.7, 0, 1)
    examples = [Labeled("x", tuple(np.array(labels)[row])) for row in gold]
    answers = [ranked(labels, row) for row in scores]
    spec = HeadSpec("classify", labels, {"threshold": {"a": 0.4}})
    parts = label_parts(examples, answers, spec, None)
    found = scores >= [0.4, 0.5, 0.5]
    theirs = precision_recall_fscore_support(gold, found, zero_division=0)
    ours = [(one.precision, one.recall, one.f1, one.support) for one in parts["classes"]]
    assert ours == [pytest.approx(row) for row in zip(*theirs, strict=True)]
    assert parts["slices"][0].figure == pytest.approx(f1_score(gold, found, average="micro"))
    for place, one in enumerate(parts["classes"][:2]):
        limits = np.unique(scores[:, place])
        best = max(f1_score(gold[:, place], scores[:, place] >= limit) for limit in limits)
        assert f1_score(gold[:, place], scores[:, place] >= one.threshold) == pytest.approx(best)
    assert parts["classes"][2].threshold is None  # too few texts have the label
    differing = [row for row in range(90) if (gold[row] != found[row]).any()]
    assert len(parts["wrong"]) == len(differing) and not any(one.expected == one.found for one in parts["confused"])


def test_numbers_have_errors_by_length(tmp_path: Path, pictures: None) -> None:
    gold, found = [1.5, 2.0, -1.0, 4.25], [1.0, 2.25, -1.0, 8.0]
    examples = [Labeled("a " * (n + 1), number) for n, number in enumerate(gold)]
    parts = number_parts(examples, [ranked(["LABEL_0"], [number]) for number in found], None)
    scores = {"pearson": 0.5, "pearson_chance": 0.0, "mean_absolute_error": 1.1}
    report = Report("price", "classify", scores, **parts)
    assert np.average([one.figure for one in report.slices], weights=[one.examples for one in report.slices]) == (
        pytest.approx(mean_absolute_error(gold, found))
    )
    assert [one["error"] for one in report.wrong] == [3.75, 0.5, 0.25, 0.0]
    assert "3.75 off: 8, expected 4.25" in report.lines()
    assert Report("price", "classify", {}, **parts).lines()[0] == "price (classify)"
    write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "residuals.png", "wrong.jsonl"]
    assert (tmp_path / "residuals.png").read_bytes().startswith(b"\x89PNG")


def test_one_class_of_many_may_never_be_found() -> None:
    spec = HeadSpec("classify", ["a", "b", "c"])
    parts = class_parts([TextExample("x", "a")], [ranked(["a", "b", "c"], [0.2, 0.7, 0.1])], spec, None)
    assert [(one.precision, one.recall, one.f1) for one in parts["classes"]] == [(0, 0, 0)] * 3


# ---- answers ---------------------------------------------------------------------------------------------------------


def question(context: str, *answers: str) -> QuestionExample:
    return QuestionExample("q", context, "Where?", list(answers), [context.index(answer) for answer in answers])


def test_questions_are_told_apart_by_whether_there_is_an_answer() -> None:
    examples: list[Example] = [
        question("Zoë lives in Köln.", "Köln"), question("Zoë lives in the city of Köln now.", "Köln"),
        question("Zoë lives."), question("She lives there."),
    ]  # fmt: skip
    answers = [("Köln", 0.9), ("city of Köln", 0.8), ("", 0.7), ("there", 0.6)]
    given = [{"answer": text, "score": score, "start": 0, "end": 0} for text, score in answers]
    report = report_of(Answers(HeadSpec("qa", []), given), "qa", examples)
    assert [(one.label, one.support, one.found, one.right) for one in report.classes] == [
        ("answer", 2, 3, 2), ("no answer", 2, 1, 1),
    ]  # fmt: skip
    assert [(one["found"], one["expected"], one["score"]) for one in report.wrong] == [
        ("city of Köln", ["Köln"], 0.8), ("there", [], 0.6),
    ]  # fmt: skip
    assert report.wrong[0]["f1"] == 0.5 and report.slice_figure == "F1"
    assert [(one.shortest, one.examples) for one in report.slices] == [(2, 1), (3, 1), (4, 1), (8, 1)]
    assert report_of(Answers(HeadSpec("qa", []), given), "qa", examples[:2]).classes == []


def test_masks_are_read_one_by_one(tokenizer: Tokenizer) -> None:
    documents: list[Example] = [Document("the cat sat . " * 60), Document("the .")]
    passages = masked_passages([one for one in documents if isinstance(one, Document)], tokenizer)
    wrong = tokenizer.token_id("dog")
    answers: list[Any] = []
    for passage in passages:
        masks = [[{"token": wrong if n == 0 else gold, "score": 0.75}] for n, gold in enumerate(passage.gold)]
        answers.append(masks if len(masks) > 1 else masks[0])
    report = report_of(Answers(HeadSpec("fill-mask", []), answers, tokenizer), "words", documents)
    assert len(report.wrong) == len(passages) and {one["found"] for one in report.wrong} == {"dog"}
    assert {one["mask"] for one in report.wrong} == {0} and report.bins[0].right == report.scores["accuracy"]
    assert report.slices and not report.classes and max(map(cell_len, report.lines())) <= 80
    assert NONE not in "".join(report.lines())
