"""If these fail, one broken row ends a corpus of millions, or text is left out silently."""

import bz2
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.training.corpora import FIXTURES
from training.__main__ import main
from training.errors import DataError
from training.text.documents import Documents, Reading

ROWS = ['{"text": "One."}', "", '{"text": ""}', '{"text": 5}', "broken", "7", '{"title": "x"}', '{"text": "\\u200b"}']
BROKEN = [
    ':4: "text" is the number 5, expected a string',
    ":5: not JSON (Expecting value: line 1 column 1 (char 0)): 'broken', expected an object",
    ":6: the number 7, expected a JSON object",
    ':7: key "text" is missing among title, expected a record with it; add it, name its column',
]


def texts(path: Path, **reading: object) -> list[str]:
    return [document.text for document in Documents([path], Reading(**reading))]  # type: ignore[arg-type]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\r\n".join([*ROWS, '{"text": "Two."}']))
    return path


def test_broken_rows_are_skipped_up_to_a_number_and_listed(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Documents([rows], Reading(skip_broken=4))
    assert [document.text for document in found] == ["One.", "Two."]
    found.tell()
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == f"{rows}: empty texts that are left out: 2" and len(told) == 5
    for line, words in zip(told, BROKEN, strict=False):
        assert line.startswith(f"skipped: {rows}{words}")


@pytest.mark.parametrize("most", range(4))
def test_one_more_than_those_is_an_error_that_names_file_line_and_value(most: int, rows: Path) -> None:
    with pytest.raises(DataError) as error:
        texts(rows, skip_broken=most)
    assert str(error.value).startswith(f"{rows}{BROKEN[most]}")
    before = f"(broken rows skipped before it: {most}, as many as --skip-broken allows)"
    remedy = before if most else "; or skip such rows with --skip-broken N"
    assert remedy in str(error.value)


def test_the_text_may_have_another_name(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text('{"body": "One.", "text": 3}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": [3, 4, 5], "body": ["One.", None, ""]}), table)
    assert texts(lines, columns={"text": "body"}) == ["One."]
    found = Documents([table], Reading(columns={"text": "body"}, skip_broken=1))
    assert [document.text for document in found] == ["One."] and found.broken.count == 1
    assert 'row 2: "text" is null' in str(found.broken.first[0])
    with pytest.raises(
        DataError, match="no column 'none' for text, expected one of text, body; correct --columns text=none"
    ):
        texts(table, columns={"text": "none"})


def test_a_line_may_be_a_document(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_bytes("\ufeffOne.\r\nTwo.\n\n\xa0\nThree é.\n".encode() + b"\xff\nFour.")
    assert texts(path, one_per_line=True, skip_broken=1) == ["One.", "Two.", "Three é.", "Four."]
    assert texts(path, skip_broken=1) == ["One.\nTwo.", "Three é.\nFour."]


def test_a_limit_counts_documents_of_each_file(rows: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("a\n\nb\n\nc")
    found = Documents([rows, other], Reading(limit=2, skip_broken=9))
    assert [document.text for document in found] == ["One.", "Two.", "a", "b"]


def test_every_format_of_labeled_data_is_one_of_texts(tmp_path: Path) -> None:
    """Columns by their usual names, other ones of any kind beside them."""
    files = [
        tmp_path / name for name in ("a.csv", "b.ndjson.bz2", "c.json", "d.tsv.gz", "e.txt.bz2", "f.txt", "g.parquet")
    ]
    table = "id,Text,tokens,label\n1,One.,[a b,x\n2,Two.,{,\n"
    records = [{"id": 1, "title": 3, "text": "One.", "label": None}, {"text": "Two."}]
    lines = "\n".join(map(json.dumps, records))
    files[0].write_text(table)
    files[1].write_bytes(bz2.compress(lines.encode("utf-16")))
    files[2].write_text(json.dumps(records))
    files[3].write_bytes(gzip.compress(table.replace(",", "\t").encode()))
    files[4].write_bytes(bz2.compress(b"One.\n\nTwo."))
    files[5].write_text("\ufeff" + lines)
    columns = {"ids": [[1], [2]], "sentence": pyarrow.array(["One.", "Two."]).dictionary_encode()}
    pyarrow.parquet.write_table(pyarrow.table(columns), files[6])
    for path in files:
        assert texts(path) == ["One.", "Two."], path


def test_a_text_that_begins_with_a_brace_is_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("{{Infobox}} One.\n\nTwo.")
    assert texts(path) == ["{{Infobox}} One.", "Two."]


def test_tasks_of_label_studio_need_no_annotation(tmp_path: Path) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"data": {"text": "One."}, "annotations": []}]))
    assert texts(path) == ["One."]


def test_the_commands_skip_and_tell(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rows.open("a") as file:
        for word in ("me", "us", "us"):
            file.write("\n" + json.dumps({"text": f"The cat sees {word}. The dog runs."}))
    options = [str(rows), "--out", str(tmp_path / "out"), "--skip-broken", "4"]
    main(["corpus", *options, "--tokenizer", str(FIXTURES), "--workers", "1", "--held-out", "0"])
    said = capsys.readouterr()
    assert f"skipped: {rows}:4" in said.err and "empty texts that are left out: 2" in said.err
    assert "train: 1 documents (20.0%) repeat an earlier one; they are kept" in said.out
    main(["vocab", *options[:2], str(tmp_path / "words"), "--size", "100", *options[3:]])
    assert f"skipped: {rows}:7" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["vocab", *options[:2], str(tmp_path / "more"), "--skip-broken", "-1"])
    assert "argument --skip-broken: '-1' is not a whole number, 0 or more" in capsys.readouterr().err
