"""If these fail, a figure is computed from other inputs, answers or labels than it says."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from models.predictor import Prediction
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from training.errors import DataError, EvaluationError
from training.evaluation.evaluate import character_spans, score, word_offsets
from training.evaluation.evaluate_command import check_report, table
from training.evaluation.masked_passages import masked_passages
from training.evaluation.metrics import Scores, headline
from training.text.examples import (
    Document,
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
)

TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


class Scripted:
    """A predictor that answers from a function, last input first, and remembers what it was asked."""

    def __init__(self, spec: HeadSpec, answer: Callable[[Any], Any], tokenizer: Tokenizer | None = None) -> None:
        self.spec, self.answer, self.tokenizer = spec, answer, tokenizer
        self.inputs: Sequence[Any] = []
        self.parameters: Mapping[str, Any] = {}

    def head(self, name: str) -> HeadSpec:
        return self.spec

    def predict(self, head: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> Iterator[Prediction]:
        self.inputs, self.parameters = inputs, parameters
        for index in reversed(range(len(inputs))):
            yield Prediction(index, self.answer(inputs[index]), None)


def ranked(**scores: float) -> list[dict[str, Any]]:
    return [{"label": label, "score": score} for label, score in sorted(scores.items(), key=lambda one: -one[1])]


def test_texts_are_scored_by_the_best_label() -> None:
    answers = {"fine": ranked(good=0.8, bad=0.2), "poor": ranked(good=0.6, bad=0.4), "great": ranked(good=1.0, bad=0.0)}
    predictor = Scripted(HeadSpec("classify", ["bad", "good"]), answers.__getitem__)
    examples = [TextExample("fine", "good"), TextExample("poor", "bad"), TextExample("great", "good")]
    scores = score(predictor, "mood", examples)
    assert scores["accuracy"] == scores["accuracy_chance"] == pytest.approx(2 / 3)
    assert scores["loss"] == pytest.approx(0.3798, abs=1e-4)  # −(ln 0.8 + ln 0.4 + ln 1) / 3
    assert scores["loss_chance"] == pytest.approx(0.6365, abs=1e-4)
    assert scores["calibration_error"] == pytest.approx((0.2 + 0.6 + 0.0) / 3)
    assert scores["examples"] == 3
    assert headline(scores) == "accuracy"


def test_pairs_are_sent_in_their_order() -> None:
    predictor = Scripted(HeadSpec("pair", ["no", "yes"]), lambda one: ranked(yes=0.9, no=0.1))
    assert score(predictor, "nli", [PairExample("a", "b", "yes")])["accuracy"] == 1.0
    assert [(one.text, one.text_pair) for one in predictor.inputs] == [("a", "b")]


@pytest.mark.parametrize(
    ("task", "example"),
    [
        ("classify", TextExample("a", "mixed")),
        ("pair", PairExample("a", "b", "mixed")),
        ("tag", TaggedExample(["a", "b"], ["good", "mixed"])),
    ],
)
def test_a_label_that_the_head_lacks_is_an_error_that_names_both(task: Any, example: Example) -> None:
    predictor = Scripted(HeadSpec(task, ["bad", "good"]), lambda one: [])
    with pytest.raises(DataError, match="the label 'mixed', expected one of head 'mood': bad, good"):
        score(predictor, "mood", [example])


def units(*found: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"entity": tag, "start": start, "end": end, "score": 1.0} for tag, start, end in found]


def test_a_word_has_the_tag_of_its_first_part_and_the_text_shows_the_difference() -> None:
    example = TaggedExample(["Jo-Ann", "left", "Köln"], ["B-PER", "O", "B-LOC"])
    whole = units(("B-PER", 0, 2), ("I-PER", 2, 3), ("I-PER", 3, 6), ("O", 7, 11), ("B-LOC", 12, 16))
    first = units(("B-PER", 0, 2), ("O", 2, 3), ("O", 3, 6), ("O", 7, 11), ("B-LOC", 12, 16))
    rest = units(("O", 0, 2), ("O", 2, 3), ("B-PER", 3, 6), ("O", 7, 11), ("B-LOC", 12, 16))
    figures = []
    for answer in (whole, first, rest):
        predictor = Scripted(HeadSpec("tag", TAGS), lambda one, answer=answer: answer)  # type: ignore[misc]
        scores = score(predictor, "ner", [example])
        figures.append((scores["f1"], scores["text_f1"]))
        assert list(predictor.inputs) == ["Jo-Ann left Köln"]
        assert predictor.parameters == {"aggregation_strategy": "none", "ignore_labels": []}
    assert figures == [(1.0, 1.0), (1.0, 0.5), (pytest.approx(2 / 3), 0.5)]


def test_running_text_is_scored_by_the_characters_of_its_spans() -> None:
    example = SpannedText("Jo-Ann left Köln.", [(0, 6, "PER"), (12, 16, "LOC")])
    right = {"entity_group": "PER", "score": 0.9, "word": "Jo-Ann", "start": 0, "end": 6}
    too_long = {"entity_group": "LOC", "score": 0.9, "word": "Köln.", "start": 12, "end": 17}
    predictor = Scripted(HeadSpec("tag", TAGS), lambda one: [right, too_long])
    scores = score(predictor, "ner", [example])
    assert list(predictor.inputs) == [example.text] and predictor.parameters == {"aggregation_strategy": "simple"}
    assert (scores["precision"], scores["recall"], scores["f1"], scores["spans"]) == (0.5, 0.5, 0.5, 2)
    assert scores["text_f1"] == scores["f1"] and scores["f1_chance"] == 0.4  # PER comes first: one of three words


def test_a_report_replaces_nothing_but_a_report(tmp_path: Path) -> None:
    report, other = tmp_path / "report.json", tmp_path / "labels.json"
    report.write_text(json.dumps({"source": "a", "head": "b", "scores": {}}), encoding="utf8")
    other.write_text('["gold"]', encoding="utf8")
    check_report(report)
    check_report(tmp_path / "new.json")
    with pytest.raises(EvaluationError, match="labels.json exists and was not written by evaluate; name another file"):
        check_report(other)


def test_a_word_that_the_service_does_not_see_is_outside() -> None:
    predictor = Scripted(HeadSpec("tag", TAGS), lambda one: units(("B-PER", 0, 1)))
    scores = score(predictor, "ner", [TaggedExample(["a", "b"], ["B-PER", "B-LOC"])])
    assert (scores["precision"], scores["recall"]) == (1.0, 0.5)


def test_plain_tags_are_scored_word_by_word() -> None:
    predictor = Scripted(HeadSpec("tag", ["NOUN", "VERB"]), lambda one: units(("NOUN", 0, 1), ("NOUN", 2, 3)))
    scores = score(predictor, "pos", [TaggedExample(["a", "b"], ["NOUN", "VERB"])])
    assert scores["accuracy"] == scores["accuracy_chance"] == 0.5
    assert headline(scores) == "accuracy"


def test_words_and_spans_have_the_characters_of_the_joined_text() -> None:
    words = ["New", "Yörk", "😀", "x"]
    offsets = word_offsets(words)
    assert [" ".join(words)[start:end] for start, end in offsets] == words
    assert character_spans(["B-LOC", "I-LOC", "O", "I-PER"], offsets) == {("LOC", 0, 8), ("PER", 11, 12)}


def question(*answers: str) -> QuestionExample:
    context = "Zoë lives in Köln."
    return QuestionExample("q", context, "Where?", list(answers), [context.index(answer) for answer in answers])


def test_no_answer_is_allowed_only_where_the_data_has_such_questions() -> None:
    predictor = Scripted(HeadSpec("qa", []), lambda one: {"answer": "Köln", "score": 1.0, "start": 13, "end": 17})
    scores = score(predictor, "qa", [question("Köln")])
    assert scores["f1"] == scores["answerable_f1"] == 1.0
    assert predictor.parameters == {"top_k": 1}
    scores = score(predictor, "qa", [question("Köln"), question()])
    assert (scores["f1"], scores["answerable_f1"], scores["unanswerable_f1"]) == (0.5, 1.0, 0.0)
    assert (scores["unanswerable_exact_match"], scores["balance"]) == (0.0, 0.5)
    assert predictor.parameters == {"top_k": 1, "handle_impossible_answer": True}
    assert headline(scores) == "f1"


def test_masked_tokens_are_scored_one_by_one(tokenizer: Tokenizer) -> None:
    documents = [Document("the cat sat . " * 60), Document("the .")]
    gold = {passage.text: passage.gold for passage in masked_passages(documents, tokenizer)}
    assert sorted(map(len, gold.values()))[0] == 1  # which is answered by a flat list

    def answer(text: str) -> Any:
        masks = [
            [{"token": token if place % 2 == 0 else -1}, {"token": token}] for place, token in enumerate(gold[text])
        ]
        return masks[0] if len(masks) == 1 else masks

    scores = score(Scripted(HeadSpec("fill-mask", []), answer, tokenizer), "words", documents)
    tokens = [token for passage in gold.values() for token in passage]
    assert scores["masked_tokens"] == len(tokens)
    assert scores["accuracy"] == sum((len(one) + 1) // 2 for one in gold.values()) / len(tokens)
    assert scores["accuracy_top5"] == 1.0
    assert scores["accuracy_chance"] == max(tokens.count(token) for token in tokens) / len(tokens)
    assert "loss" not in scores and 0 < scores["loss_chance"] < 3


def test_masking_needs_the_tokenizer_and_words(tokenizer: Tokenizer) -> None:
    with pytest.raises(EvaluationError, match="add --tokenizer"):
        score(Scripted(HeadSpec("fill-mask", []), str), "words", [Document("the")])
    with pytest.raises(DataError, match="no word to mask"):
        score(Scripted(HeadSpec("fill-mask", []), str, tokenizer), "words", [Document("猫")])


def test_the_table_shows_shares_counts_and_losses_as_what_they_are() -> None:
    scores: Scores = {"examples": 1200.0, "f1": 0.5, "f1_chance": 0.25, "loss": 1.25, "all_questions": 3.0}
    console = Console(width=100)
    with console.capture() as capture:
        console.print(table("title", scores))
    for expected in ("1,200", "50.00 %", "25.00 %", "1.2500 nats", "all questions"):
        assert expected in capture.get()
    assert "f1 chance" not in capture.get()
