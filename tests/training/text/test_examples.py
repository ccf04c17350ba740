"""If these fail, a broken data file is used silently, or its error does not name the line to fix."""

import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from training.errors import DataError
from training.text.documents import Documents
from training.text.examples import (
    Document,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
    labels_of,
    read_examples,
)

ROWS = [{"text": f"línea {number} 😀", "label": "good" if number % 2 else "bad"} for number in range(300)]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".jsonl": bytes,
    ".jsonl.xz": lzma.compress,
    ".jsonl.gz": gzip.compress,
    ".jsonl.zst": zstandard.ZstdCompressor().compress,
}
QUESTION = {
    "id": "q1",
    "title": None,
    "context": "Zoë 😀 lives in Köln.",
    "question": "Where?",
    "answers": {"text": ["Köln"], "answer_start": [15]},
    "source": "here",
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf8")
    return path


def changed(record: dict[str, Any], **changes: object) -> dict[str, Any]:
    return record | changes


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_reads_plain_and_compressed_files_alike(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(COMPRESSORS[suffix]("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    expected = [TextExample(str(row["text"]), str(row["label"])) for row in ROWS]
    assert read_examples(path, "classify") == expected
    assert read_examples(path, "classify", limit=7) == expected[:7]


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix != ".jsonl"])
@pytest.mark.parametrize("keep", [0.05, 0.5, 0.99])
def test_a_cut_compressed_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"rows{suffix}"
    whole = COMPRESSORS[suffix]("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=rf"rows{suffix} cannot be read to its end .* copy it again"):
        read_examples(path, "classify")


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix != ".jsonl"])
def test_a_file_that_is_not_compressed_as_named_is_an_error(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows{suffix}", *ROWS)
    with pytest.raises(DataError, match=rf"rows{suffix} is plain text, .*; remove {Path('rows' + suffix).suffix} from"):
        read_examples(path, "classify")
    path.write_bytes(b"\0\1\2\3\4")
    with pytest.raises(DataError, match=f"rows{suffix} cannot be read"):
        read_examples(path, "classify")


@pytest.mark.parametrize("suffix", [suffix for suffix in COMPRESSORS if suffix != ".jsonl"])
def test_a_compressed_file_without_the_suffix_is_named_as_what_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(COMPRESSORS[suffix](json.dumps(GOOD).encode()))
    with pytest.raises(DataError, match=rf"rows\.jsonl is compressed with .*; add {suffix.removeprefix('.jsonl')} to"):
        read_examples(path, "classify")


def test_a_sheet_named_csv_is_not_taken_for_a_wrong_encoding(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"PK\x03\x04\x14\x00\x06\x00")
    with pytest.raises(DataError, match=r"rows\.csv is a ZIP archive or an Excel sheet, .* save the sheet as CSV"):
        read_examples(path, "classify")


def test_zstd_files_of_several_frames_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.zst"
    path.write_bytes(b"".join(COMPRESSORS[".jsonl.zst"](json.dumps(row).encode() + b"\n") for row in ROWS))
    assert len(read_examples(path, "classify")) == len(ROWS)


def test_the_last_line_needs_no_line_break(tmp_path: Path) -> None:
    for suffix, compress in COMPRESSORS.items():
        path = tmp_path / f"rows{suffix}"
        path.write_bytes(compress(b'{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}'))
        assert [example.text for example in read_examples(path, "classify")] == ["a", "b"]


def test_reads_every_task(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write(path, {"text_a": "a", "text_b": "b", "label": "neutral", "source": "extra keys are fine"})
    assert read_examples(path, "pair") == [PairExample("a", "b", "neutral")]
    write(path, {"tokens": ["Al", "ran"], "tags": ["B-PER", "O"]})
    assert read_examples(path, "tag") == [TaggedExample(["Al", "ran"], ["B-PER", "O"])]
    write(path, QUESTION, changed(QUESTION, answers={"text": [], "answer_start": []}))
    context, question = "Zoë 😀 lives in Köln.", "Where?"
    assert read_examples(path, "qa") == [
        QuestionExample("q1", context, question, ["Köln"], [15]),
        QuestionExample("q1", context, question, [], []),
    ]
    write(path, {"title": 3, "text": "One.\nTwo."}, {"source": "s", "text": "Three."})
    documents = [Document("One.\nTwo."), Document("Three.")]
    assert read_examples(path, "fill-mask") == documents == list(Documents([path]))


GOOD = {"text": "fine", "label": "x"}
TAGGED = {"tokens": ["a", "b"], "tags": ["O", "O"]}


@pytest.mark.parametrize(
    ("task", "record", "message"),
    [
        ("classify", [1], r"a list, expected a JSON object"),
        ("classify", "text", r"a string, expected a JSON object"),
        ("classify", {"text": "a"}, r'key "label" is missing among text'),
        ("classify", {}, r'key "text" is missing among no key'),
        ("classify", changed(GOOD, label=None), r'"label" is null, expected a string, a number, or a list of strings'),
        ("classify", changed(GOOD, label={}), r'"label" is an object, expected a string, a number'),
        ("classify", changed(GOOD, label=["a", 0.5]), r'"label"\[1\] is the number 0.5, expected a string'),
        ("classify", changed(GOOD, label=[["a"]]), r'"label"\[0\] is a list, expected a string'),
        ("classify", changed(GOOD, label=[" "]), r'"label"\[0\] is \' \', expected visible text'),
        ("classify", changed(GOOD, label=float("nan")), r'"label" is nan, expected a finite number'),
        ("classify", changed(GOOD, text=["a"]), r'"text" is a list, expected a string'),
        ("classify", changed(GOOD, text=" \t"), r'"text" is \' .t\', expected visible text'),
        ("classify", changed(GOOD, text="\u200b\ufffd"), r'"text" is .*, expected visible text'),
        ("classify", changed(GOOD, text="a\0b"), r'"text" has U.0000 at character 1, which no text can hold'),
        ("classify", changed(GOOD, label=""), r'"label" is \'\', expected'),
        ("pair", {"text_a": "a", "label": "x"}, r'key "text_b" is missing among label, text_a'),
        ("pair", {"text_a": "a", "text_b": {}, "label": "x"}, r'"text_b" is an object'),
        ("tag", changed(TAGGED, tags=["O"]), r"2 tokens but 1 tags, expected one tag per token"),
        ("tag", changed(TAGGED, tokens=[], tags=[]), r'"tokens" is empty'),
        ("tag", changed(TAGGED, tokens=["a", ""]), r'"tokens"\[1\] is \'\', expected visible'),
        ("tag", changed(TAGGED, tokens="a b"), r'"tokens" is a string, expected a list of strings'),
        ("tag", changed(TAGGED, tags=["O", 1]), r'"tags"\[1\] is the number 1'),
        ("tag", changed(TAGGED, tags=["B-PER", "NOUN"]), r"'NOUN', expected O, B-TYPE or I-TYPE"),
        ("tag", changed(TAGGED, tags=["B-", "O"]), r"'B-', expected O, B-TYPE"),
        ("qa", changed(QUESTION, answers="Köln"), r'"answers" is a string, expected'),
        ("qa", changed(QUESTION, answers={"text": ["Köln"]}), r'key "answer_start" is missing among text'),
        ("qa", changed(QUESTION, answers={"text": ["Köln"], "answer_start": []}), r"1 answer texts but 0 offsets"),
        ("qa", changed(QUESTION, answers={"text": ["Köln"], "answer_start": ["15"]}), r"not a list of whole numbers"),
        ("qa", changed(QUESTION, answers={"text": ["Köln"], "answer_start": [True]}), r"not a list of whole numbers"),
        (
            "qa",
            changed(QUESTION, answers={"text": ["Köln"], "answer_start": [14]}),
            r"has ' Köl' at character 14, expected the answer 'Köln'; its first occurrence is at 15",
        ),
        (
            "qa",
            changed(QUESTION, answers={"text": ["Bonn"], "answer_start": [-4]}),
            r"'' .* 'Bonn'; the context does not",
        ),
        ("fill-mask", {"text": ""}, r'"text" is \'\', expected'),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, task: Any, record: object, message: str) -> None:
    good = {"classify": GOOD, "pair": {"text_a": "a", "text_b": "b", "label": "x"}, "tag": TAGGED, "qa": QUESTION}
    path = write(tmp_path / "rows.jsonl", good.get(task, {"text": "a"}), record)
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}"):
        read_examples(path, task)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{'text': 1}", r"not JSON"),
        (b'{"text": "a", "label": "x"', r"not JSON"),
        (b"[" * 100_000, r"not JSON"),
        (b'{"text": "caf\xe9", "label": "x"}', r"byte 13 is 0xe9, which is not UTF-8"),
        (rb'{"text": "half \ud83d", "label": "x"}', r'"text" has U.D83D at character 5'),
    ],
)
def test_a_line_that_is_not_json_or_not_utf8_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a", "label": "x"}\n' + line + b'\n{"text": "b", "label": "x"}\n')
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{message}"):
        read_examples(path, "classify")


def test_a_broken_line_after_the_limit_is_not_read(tmp_path: Path) -> None:
    assert len(read_examples(write(tmp_path / "rows.jsonl", GOOD, {}), "classify", limit=1)) == 1


def test_a_file_that_is_missing_empty_or_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl does not exist"):
        read_examples(tmp_path / "none.jsonl", "classify")
    with pytest.raises(DataError, match=r"empty\.jsonl has no examples"):
        read_examples(write(tmp_path / "empty.jsonl"), "classify")
    with pytest.raises(DataError, match=r"rows\.xlsx ends in '\.xlsx', expected \.csv, .* \.jsonl, .*save the sheet"):
        read_examples(write(tmp_path / "rows.xlsx", GOOD), "classify")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl cannot be read"):  # only read_data takes folders
        read_examples(tmp_path / "folder.jsonl", "classify")


def test_labels_are_in_an_order_that_does_not_depend_on_the_rows() -> None:
    texts = [TextExample("a", "positive"), TextExample("b", "negative"), TextExample("c", "positive")]
    assert labels_of(texts) == labels_of(reversed(texts)) == ["negative", "positive"]
    assert labels_of([TaggedExample(["a"], ["VERB"]), TaggedExample(["b"], ["NOUN"])]) == ["NOUN", "VERB"]


def test_span_labels_are_complete_and_begin_with_o() -> None:
    tagged = [TaggedExample(["a"], ["B-PER"]), TaggedExample(["a", "b"], ["B-LOC", "I-LOC"])]
    assert labels_of(tagged) == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_spans_of_running_text_are_read_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Ann met Bob.", "spans": [[8, 11, "PER"], [0, 3, "PER"]], "id": 1})
    assert read_examples(path, "tag") == [SpannedText("Ann met Bob.", [(0, 3, "PER"), (8, 11, "PER")])]
    assert labels_of(read_examples(path, "tag")) == ["O", "B-PER", "I-PER"]


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ("PER", '"spans" is .*expected a list of \\[start, end, type\\]; correct the line'),
        ([[0, 3]], '"spans"\\[0\\] is \\[0, 3\\], expected \\[start, end, type\\]; correct it'),
        ([[0, True, "PER"]], '"spans"\\[0\\] is'),
        ([[0, 13, "PER"]], '"spans"\\[0\\] is characters 0 to 13 of a text of 12, expected a part of it'),
        ([[3, 3, "PER"]], '"spans"\\[0\\] is characters 3 to 3'),
        ([[3, 4, "PER"]], '"spans"\\[0\\] is characters 3 to 4 .* visible characters'),
        ([[0, 3, " "]], '"spans"\\[0\\] is'),
        ([[0, 7, "PER"], [4, 11, "LOC"]], '"spans" has LOC at 4 to 11 inside another span, expected none to overlap'),
    ],
)
def test_spans_that_are_no_part_of_their_text_are_refused(tmp_path: Path, spans: object, message: str) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "Ann met Bob.", "spans": spans})
    with pytest.raises(DataError, match=message):
        read_examples(path, "tag")


def test_a_file_without_permission_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))  # root may read everything

    monkeypatch.setattr("training.run.text_lines.opened", refuse)
    with pytest.raises(DataError, match=r"rows\.jsonl may not be read by this user, .* allow it with chmod"):
        read_examples(path, "classify")
