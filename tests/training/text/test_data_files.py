"""Would break: a team's own file is refused or misread, or its broken rows, doubles and converted tags go untold."""

import argparse
import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from training.errors import DataError
from training.text.data_files import parse_columns, read_data, read_files
from training.text.examples import (
    Example,
    PairExample,
    QuestionExample,
    SpannedText,
    TaggedExample,
    TextExample,
    labels_of,
)
from training.text.file_formats import files_in
from training.text.problem_types import as_problem, problem_of

DATA = Path(__file__).parents[2] / "fixtures" / "data"
MOODS = [
    TextExample("What a film, what a cast!", "good"),
    TextExample('He said "never again"; so did I.', "bad"),
    TextExample("Two lines:\nthe second is better.", "good"),
    TextExample("Zoë 😀 slept through it", "bad"),
]
PAIRS = [
    PairExample("A man sleeps.", "Somebody rests.", "entailment"),
    PairExample('She said "no".', "She agreed, gladly.", "contradiction"),
    PairExample("It rains.", "It is Monday.", "neutral"),
]
NAMES = [
    TaggedExample(["EU", "rejects", "German", "call"], ["B-ORG", "O", "B-MISC", "O"]),
    TaggedExample(
        ["Anna", "Maria", "Smith", "met", "Bob", "Jones", "."],
        ["B-PER", "I-PER", "I-PER", "O", "B-PER", "I-PER", "O"],
    ),
    TaggedExample(["Paris", "London"], ["B-LOC", "B-LOC"]),
]
SPANS = [
    SpannedText("Zoë 😀 Smith met Bob in Köln.", [(0, 11, "PER"), (16, 19, "PER"), (23, 27, "LOC")]),
    SpannedText("Nobody was there.", []),
]
CONTEXT = "Zoë 😀 lives in Köln. Köln lies on the Rhine."
QUESTIONS = [
    ("Where does Zoë live?", ["Köln"], [15]),
    ("Where is Köln?", ["on the Rhine", "the Rhine"], [31, 34]),
]


def read(name: str, task: Any, **options: Any) -> list[Example]:
    return read_data([DATA / name], task, **options)


def write(path: Path, text: str, encoding: str = "utf8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


# ---- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["moods.csv", "moods_semicolon.csv", "moods_utf16.csv", "moods_no_header.csv", "moods.json", "moods.jsonl"]
    + ["moods.parquet", "moods_label_studio.json"],
)
def test_every_format_of_texts_reads_to_the_same_examples(name: str) -> None:
    assert read(name, "classify") == MOODS


def test_a_tsv_with_quotes_as_plain_characters_is_read_as_it_is_written() -> None:
    assert read("moods.tsv", "classify") == [
        TextExample('"Never again" is what I said', "bad"),
        TextExample('An "ok" film, said "nobody', "bad"),
        TextExample("fine", "good"),
    ]


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv", "pairs.jsonl"])
def test_every_format_of_pairs_reads_to_the_same_examples(name: str) -> None:
    assert read(name, "pair") == PAIRS


@pytest.mark.parametrize(
    "name",
    ["names_iob1.conll", "names_bio.bio", "names_bioes.iob", "names_bilou.jsonl", "names_bmewo.csv", "names.parquet"],
)
def test_every_format_and_scheme_of_tags_reads_to_the_same_examples(name: str) -> None:
    assert read(name, "tag") == NAMES


def test_conllu_gives_syntactic_words_and_parts_of_speech() -> None:
    assert read("speech.conllu", "tag") == [
        TaggedExample(["I", "do", "n't", "know", "."], ["PRON", "AUX", "PART", "VERB", "PUNCT"]),
        TaggedExample(["#1", "wins"], ["NOUN", "VERB"]),
    ]
    [first, _] = read("speech.conllu", "tag", columns={"tags": "4"})
    assert isinstance(first, TaggedExample) and first.tags == ["PRP", "VBP", "RB", "VB", "."]


@pytest.mark.parametrize(
    "name",
    ["spans.jsonl", "spans_doccano.jsonl", "spans_doccano_entities.jsonl", "spans_spacy.json", "spans_prodigy.jsonl"]
    + ["spans_label_studio.json", "spans_label_studio_min.json"],
)
def test_every_export_of_spans_reads_to_the_same_examples(name: str) -> None:
    assert read(name, "tag") == SPANS


@pytest.mark.parametrize("name", ["squad_1.1.json", "squad_2.0.json", "questions.parquet", "questions.csv"])
def test_every_format_of_questions_reads_to_the_same_examples(name: str) -> None:
    found = [one for one in read(name, "qa") if isinstance(one, QuestionExample)]
    assert [(one.question, one.answers, one.starts) for one in found[:2]] == QUESTIONS
    assert {one.context for one in found} == {CONTEXT}
    assert len({one.id for one in found}) == len(found)


def test_squad_says_which_questions_have_no_answer() -> None:
    assert read("squad_2.0.json", "qa")[2] == QuestionExample("q3", CONTEXT, "Where does Bob live?", [], [])


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_format_may_be_compressed(tmp_path: Path, suffix: str) -> None:
    for name in ("moods.csv", "moods_utf16.csv", "moods.json", "moods.jsonl"):
        path = tmp_path / f"{name}{suffix.upper() if suffix == '.gz' else suffix}"
        path.write_bytes(COMPRESSORS[suffix]((DATA / name).read_bytes()))
        assert read_data([path], "classify") == MOODS


def test_a_text_file_is_what_its_first_line_says(tmp_path: Path) -> None:
    rows = [TextExample("i feel fine today", "joy"), TextExample("i feel low", "sad"), TextExample("i am fine", "joy")]
    table = write(tmp_path / "a.txt", "".join(f"{one.text};{one.label}\n" for one in rows))
    assert read_data([table], "classify") == rows
    assert read_data([write(tmp_path / "b.txt", "Al B-PER\nran O\n")], "tag") == [
        TaggedExample(["Al", "ran"], ["B-PER", "O"])
    ]
    assert read_data([write(tmp_path / "c.txt", '{"text": "a", "label": "x"}\n')], "classify") == [
        TextExample("a", "x")
    ]


def test_a_json_file_may_hold_an_object_per_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", (DATA / "moods.jsonl").read_text())
    assert read_data([path], "classify") == MOODS


# ---- places ----------------------------------------------------------------------------------------------------------


def test_a_broken_element_is_named_by_its_line_and_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[\n {"text": "a", "label": "x"},\n {"text": "b",\n  "label": null}\n]')
    with pytest.raises(DataError, match=r"a\.json:3: element 2: \"label\" is null"):
        read_data([path], "classify")
    with pytest.raises(DataError, match=r"b\.json:2: element 1 is followed by '\{\}\]', expected ',' or '\]'"):
        read_data([write(tmp_path / "b.json", '[{"text": "a", "label": "x"}\n{}]')], "classify")
    with pytest.raises(DataError, match=r"c\.json is one object with the keys train, test, expected a list of records"):
        read_data([write(tmp_path / "c.json", '{"train": [["a", "x"]], "test": []}')], "classify")


def test_a_broken_question_is_named_by_its_place(tmp_path: Path) -> None:
    squad = json.loads((DATA / "squad_1.1.json").read_text())
    squad["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = 30
    with pytest.raises(DataError, match=r"a\.json: data\[0\]\.paragraphs\[0\]\.qas\[1\]: .*'on the Rhine'"):
        read_data([write(tmp_path / "a.json", json.dumps(squad))], "qa")


def test_numbers_without_names_are_no_tags(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"words": ["a"], "ner_tags": [3]}\n')
    with pytest.raises(DataError, match=r'a\.jsonl:1: "tags"\[0\] is the number 3, expected a tag such as B-PER'):
        read_data([path], "tag")


def test_a_word_without_a_tag_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "# a comment\nAl B-PER\nran O\n\nhe\nran O\n")
    with pytest.raises(DataError, match=r"a\.conll:5: 1 column \('he'\), expected 2 as in most lines"):
        read_data([path], "tag")


def test_a_hash_is_a_word_where_it_has_a_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "#\tO\n1\tO\n#win\tB-X\n\n# id 7\n#win\tB-X\n")
    assert read_data([path], "tag") == [
        TaggedExample(["#", "1", "#win"], ["O", "O", "B-X"]),
        TaggedExample(["#win"], ["B-X"]),
    ]


def test_a_class_has_one_name_in_every_format(tmp_path: Path) -> None:
    labels = ["True", "true", "TRUE", "False", "1", "1.0", "yes"]
    table = write(tmp_path / "a.csv", "text,label\n" + "".join(f"t{n},{label}\n" for n, label in enumerate(labels)))
    values: list[object] = [True, True, True, False, 1, "1", "yes"]
    lines = "".join(json.dumps({"text": f"t{n}", "label": value}) + "\n" for n, value in enumerate(values))
    found = [read_data([path], "classify") for path in (table, write(tmp_path / "a.jsonl", lines))]
    first, second = (as_problem(examples, problem_of(examples)) for examples in found)
    assert first == second and labels_of(first) == ["1", "false", "true", "yes"]


# ---- several files ---------------------------------------------------------------------------------------------------


def test_files_and_folders_of_different_formats_are_read_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("moods.parquet", "moods.json"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    for name in (".hidden.csv", "README.txt", "notes.md"):
        write(folder / name, "nothing")
    assert files_in(folder, "classify") == [folder / "moods.json", folder / "moods.parquet"]
    assert "skipped .hidden.csv, README.txt, notes.md" in capsys.readouterr().err
    found = read_files([folder, DATA / "moods.csv"], "classify")
    assert found == dict.fromkeys([folder / "moods.json", folder / "moods.parquet", DATA / "moods.csv"], MOODS)
    assert "3 files: rows equal to an earlier one: 8" in capsys.readouterr().err


def test_a_folder_without_data_and_a_pipe_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "nothing")
    with pytest.raises(DataError, match=r"cannot be read: the folder has only README\.md, expected files in \.csv"):
        read_data([tmp_path], "classify")
    with pytest.raises(DataError, match=r"^- is standard input, expected a file; write it to a file first"):
        read_data([Path("-")], "classify")
    with pytest.raises(DataError, match=r"/dev/null is a pipe or a device, expected a file"):
        read_data([Path("/dev/null")], "classify")
    with pytest.raises(DataError, match=r"none\.csv does not exist"):
        read_data([tmp_path / "none.csv"], "classify")


def test_texts_with_two_labels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.csv", "text,label\na,x\na,y\na,x\nb,x\nb,x\n")
    assert len(read_data([path], "classify")) == 5
    told = capsys.readouterr().err
    assert "a.csv: rows equal to an earlier one: 2" in told
    assert "a.csv: texts with different labels in different rows: 1" in told


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_up_to_n_broken_rows_are_skipped_and_listed(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = ("a,x", ",x") if suffix == ".csv" else ('{"text": "a", "label": "x"}', '{"text": "", "label": "x"}')
    lines = ["text,label"] * (suffix == ".csv") + [good] + [bad] * 12 + [good]
    path = write(tmp_path / f"a{suffix}", "\n".join(lines))
    assert len(read_data([path], "classify", skip_broken=12)) == 2
    told = capsys.readouterr().err
    assert told.count("skipped: " + str(path)) == 10 and "skipped: 2 more broken rows" in told
    with pytest.raises(DataError, match=r"; or skip such rows with --skip-broken N$"):
        read_data([path], "classify")
    with pytest.raises(DataError, match=r"is ''.*\(broken rows skipped before it: 11, as many as --skip-broken"):
        read_data([path], "classify", skip_broken=11)


def test_a_quote_that_is_never_closed_is_more_than_a_row_to_skip(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\na,x\n"b,y\n' + "c,z\n" * 500)
    with pytest.raises(DataError, match=r"a\.csv:3: a quote opens here and is never closed"):
        read_data([path], "classify", skip_broken=10)


def test_chosen_columns_come_before_the_usual_ones(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"tokens": ["a"], "tags": ["O"], "pos_tags": ["DET"]}\n')
    assert read_data([path], "tag", {"tags": "pos_tags"}) == [TaggedExample(["a"], ["DET"])]
    path = write(tmp_path / "b.jsonl", '{"text": "a", "label": "x", "title": "b"}\n')
    assert read_data([path], "classify", {"text": "title"}) == [TextExample("b", "x")]


def test_skipping_goes_on_after_a_broken_quote_and_a_stray_byte(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", 'text,label\n"a" b,x\nc,y\n')
    assert read_data([table], "classify", skip_broken=1) == [TextExample("c", "y")]
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(b'{"text": "caf\xe9", "label": "x"}\n{"text": "c", "label": "y"}\n')
    assert read_data([lines], "classify", skip_broken=1) == [TextExample("c", "y")]


# ---- options ---------------------------------------------------------------------------------------------------------


def test_columns_are_parsed() -> None:
    assert parse_columns('text=a b,"label=x,y"') == {"text": "a b", "label": "x,y"}
    assert parse_columns("sentence") == {"text": "sentence"} and parse_columns("text=a=b") == {"text": "a=b"}
    for text in ("text=", "texts=a", "label=a,"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected FIELD=COLUMN with a field of answers, context"):
            parse_columns(text)
    with pytest.raises(argparse.ArgumentTypeError, match="text=c: expected one column, not a and c"):
        parse_columns("a,label=b,text=c")
