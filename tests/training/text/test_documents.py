"""What would break: a corpus of millions that ends at one broken row, or text that is left out in silence."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from tests.training.corpora import FIXTURES
from training.__main__ import main
from training.errors import DataError
from training.text.documents import Documents, Reading, iter_documents

ROWS = ['{"text": "One."}', "", '{"text": ""}', '{"text": 5}', "broken", "7", '{"body": "x"}', '{"text": "\\u200b"}']
BROKEN = [
    ':4: "text" is the number 5, expected a string',
    ":5: not JSON (Expecting value: line 1 column 1 (char 0)): 'broken",
    ":6: the number 7, expected a JSON object",
    ':7: has the keys body, expected "text"; name the text\'s with --column',
]


def texts(path: Path, **reading: object) -> list[str]:
    return [document.text for document in Documents([path], Reading(**reading))]  # type: ignore[arg-type]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\r\n".join([*ROWS, '{"text": "Two."}']))
    return path


def test_broken_rows_are_skipped_up_to_a_number_and_listed(rows: Path) -> None:
    found = Documents([rows], Reading(skip_broken=4))
    assert [document.text for document in found] == ["One.", "Two."]
    remarks = found.remarks()
    assert remarks[-1] == "2 texts were empty and are left out" and len(remarks) == 5
    for remark, words in zip(remarks, BROKEN, strict=False):
        assert remark.startswith(f"skipped: {rows}{words}")


@pytest.mark.parametrize("most", range(4))
def test_one_more_than_those_is_an_error_that_names_file_line_and_value(most: int, rows: Path) -> None:
    with pytest.raises(DataError) as error:
        texts(rows, skip_broken=most)
    assert str(error.value).startswith(f"{rows}{BROKEN[most]}")
    remedy = "or skip up to N such rows with --skip-broken N" if not most else f"after {most} others that were skipped"
    assert remedy in str(error.value)


def test_of_many_broken_rows_ten_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("x\n" * 25 + '{"text": "One."}\n')
    found = Documents([path], Reading(skip_broken=25))
    assert len(list(found)) == 1
    assert len(found.remarks()) == 11 and found.remarks()[-1] == "skipped: 15 broken rows more"


def test_the_text_may_have_another_name(tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    lines.write_text('{"body": "One.", "text": 3}\n')
    pyarrow.parquet.write_table(pyarrow.table({"text": [3, 4, 5], "body": ["One.", None, ""]}), table)
    assert texts(lines, column="body") == ["One."]
    found = Documents([table], Reading(column="body", skip_broken=1))
    assert [document.text for document in found] == ["One."] and found.empty == 1
    assert "row 2 has null" in found.remarks()[0]
    with pytest.raises(DataError, match='has the columns text, body, expected one named "none"; name it with --column'):
        texts(table, column="none")


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


def test_other_readers_get_no_broken_row(rows: Path) -> None:
    with pytest.raises(DataError, match=r":4: .*; correct the line$"):
        list(iter_documents(rows))


def test_the_commands_skip_and_tell(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rows.open("a") as file:
        for word in ("me", "us", "us"):
            file.write("\n" + json.dumps({"text": f"The cat sees {word}. The dog runs."}))
    options = [str(rows), "--out", str(tmp_path / "out"), "--skip-broken", "4"]
    main(["corpus", *options, "--tokenizer", str(FIXTURES), "--workers", "1", "--held-out", "0"])
    said = capsys.readouterr()
    assert f"skipped: {rows}:4" in said.err and "2 texts were empty" in said.err
    assert "train: 1 documents (20.0%) repeat an earlier one, and stay" in said.out
    main(["vocab", *options[:2], str(tmp_path / "words"), "--size", "100", *options[3:]])
    assert f"skipped: {rows}:7" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["vocab", *options[:2], str(tmp_path / "more"), "--skip-broken", "-1"])
    assert "--skip-broken is -1, expected 0 or more rows" in capsys.readouterr().err
