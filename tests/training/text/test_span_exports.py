"""If these fail, a tagger silently learns spans that its annotators did not mark."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.errors import DataError
from training.text.data_files import read_data
from training.text.examples import SpannedText, TextExample

TEXT = "Ann met Bob in Köln."


def read(tmp_path: Path, *records: object, task: Any = "tag", **options: Any) -> list[Any]:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return list(read_data([path], task, **options))


@pytest.mark.parametrize(
    ("given", "expected", "told"),
    [
        ([9, 11], [8, 11], "spans that cut a word, and were extended to the whole word: 1"),
        ([7, 12], [8, 11], "spans whose spaces at the ends were removed: 1"),
        ([8, 10], [8, 11], "spans that cut a word, and were extended to the whole word: 1"),
        ([16, 18], [15, 19], "spans that cut a word, and were extended to the whole word: 1"),
        ([0, 3], [0, 3], ""),
        ([15, 20], [15, 20], ""),
    ],
)
def test_a_span_holds_whole_words_without_blanks_around_them(
    tmp_path: Path, given: list[int], expected: list[int], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read(tmp_path, {"text": TEXT, "label": [[*given, "X"]]}) == [SpannedText(TEXT, [(*expected, "X")])]  # type: ignore[list-item]
    assert told in (found := capsys.readouterr().err) and bool(told) == bool(found)


def test_scripts_without_blanks_are_cut_anywhere(tmp_path: Path) -> None:
    text = "今年上海苹果公司"
    assert read(tmp_path, {"text": text, "label": [[2, 4, "LOC"], [4, 8, "ORG"]]}) == [
        SpannedText(text, [(2, 4, "LOC"), (4, 8, "ORG")])
    ]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([[0, 7, "X"], [4, 11, "Y"]], '"spans" has Y at 4 to 11 inside another span'),
        ([[0, 2, "X"], [2, 3, "Y"]], '"spans" has Y at 0 to 3 inside another span'),
        ([[3, 4, "X"]], '"spans"\\[0\\] is characters 3 to 4 .*visible characters'),
        ([[5, 5, "X"]], '"spans"\\[0\\] is characters 5 to 5'),
        ([{"start": 0, "end": 3, "labels": ["X", "Y"]}], '"spans"\\[0\\] is .*expected \\[start, end, type\\]'),
        ([{"start": 0, "end": 3, "labels": ["X"], "text": "Bob"}], "is 'Ann' by its offsets, expected its text 'Bob'"),
    ],
)
def test_spans_that_are_no_spans_are_refused_or_skipped(tmp_path: Path, label: object, message: str) -> None:
    record = {"text": TEXT, "label": label}
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*" + message):
        read(tmp_path, record)
    assert read(tmp_path, record, {"text": TEXT, "label": []}, skip_broken=1) == [SpannedText(TEXT, [])]


def task(text: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"text": text}, "annotations": list(annotations)}


def choice(*choices: str, **rest: object) -> dict[str, Any]:
    return {"result": [{"type": "choices", "value": {"choices": list(choices)}}], **rest}


def test_of_several_annotations_one_is_taken_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        task("a", choice("x")),
        task("b"),
        task("c", choice("x", was_cancelled=True), choice("y")),
        task("d", choice("x"), choice("y", ground_truth=True)),
    ]
    found = read(tmp_path, *records, task="classify")
    assert found == [TextExample("a", "x"), TextExample("c", "y"), TextExample("d", "y")]
    told = capsys.readouterr().err
    assert "tasks left out, because they have no annotation: 1" in told
    assert "tasks with several annotations; the ground truth was used, or the first one: 1" in told


@pytest.mark.parametrize(("text", "written"), [("😀😀 Bob", "Bob"), ("😀 Bob", "😀")])
def test_offsets_of_javascript_are_told(
    tmp_path: Path, text: str, written: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they are wrong by a blank only: two units are "😀 " by characters."""
    start = text.index(written)
    before, units = (len(part.encode("utf-16-le")) // 2 for part in (text[:start], written))
    span = {"start": before, "end": before + units, "text": written, "labels": ["PER"]}
    found = read(tmp_path, {"text": text, "label": [span]})
    assert found == [SpannedText(text, [(start, start + len(written), "PER")])]
    told = capsys.readouterr().err
    assert "spans converted from UTF-16 units, which JavaScript counts, to characters: 1" in told
    assert "blanks" not in told


def test_what_a_person_rejected_in_prodigy_is_not_learned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spans = [{"start": 0, "end": 3, "label": "PER"}]
    answers = ("accept", "reject", "ignore")
    assert len(read(tmp_path, *({"text": TEXT, "spans": spans, "answer": answer} for answer in answers))) == 1
    assert 'rows left out, because their "answer" is reject or ignore: 2' in capsys.readouterr().err
    rows = [{"text": f"{TEXT} {answer}", "label": "A", "answer": answer} for answer in answers]
    assert read(tmp_path, *rows, task="classify") == [TextExample(f"{TEXT} accept", "A")]


def test_a_choice_of_prodigy_is_a_label(tmp_path: Path) -> None:
    options = [{"id": "A", "text": "first"}, {"id": "B", "text": "second"}]
    rows = [{"text": TEXT, "options": options, "accept": chosen, "answer": "accept"} for chosen in (["B"], ["A", "B"])]
    assert [one.label for one in read(tmp_path, *rows, task="classify")] == ["B", ("A", "B")]


def test_a_column_of_answers_may_hold_these_words(tmp_path: Path) -> None:
    row = {"text": TEXT, "answer": "reject"}
    assert read(tmp_path, row, task="classify", columns={"label": "answer"}) == [TextExample(TEXT, "reject")]
