"""If these fail, columns, cells or broken rows of a table are not read as their writer meant."""

import csv
import io
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.tokenizer import UNUSABLE
from training.errors import DataError
from training.run.json_lines import visible
from training.text.data_files import read_data
from training.text.examples import (
    TextExample,
)


def write(path: Path, text: str, encoding: str = "utf8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30).filter(
    lambda text: any(map(visible, text)) and not UNUSABLE.search(text)
)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, st.sampled_from(["good", "bad", "x,y"])), min_size=1, max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    always=st.booleans(),
)
def test_what_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, end: str, always: bool
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, csv.unix_dialect if always else csv.excel, delimiter=delimiter, lineterminator=end)
    writer.writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("csv") / "rows.csv", file.getvalue())
    assert read_data([path], "classify") == [TextExample(text, label) for text, label in rows]


def test_columns_are_chosen_by_name_or_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "tweet,mood,sentiment\nso fine,3,x\nso so,4,y\n")
    with pytest.raises(DataError, match=r"a\.csv:1: no column is known as text among tweet, mood, sentiment; name it"):
        read_data([path], "classify")
    with pytest.raises(DataError, match=r"text or label among a, b; name it with --columns text=COLUMN,label=COLUMN,"):
        read_data([write(tmp_path / "b.csv", "a,b\nso fine,3\nso so,4\n")], "classify")
    expected = [TextExample("so fine", "x"), TextExample("so so", "y")]
    assert read_data([path], "classify", {"text": "tweet"}) == expected
    assert read_data([path], "classify", {"text": "0", "label": "2"}) == expected
    with pytest.raises(DataError, match=r"there is no column 'tweets' for text, expected one of tweet, mood, sentim"):
        read_data([path], "classify", {"text": "tweets"})
    with pytest.raises(DataError, match=r"the column 'mood' for text and label, expected another for each"):
        read_data([path], "classify", {"text": "mood", "label": "mood"})
    with pytest.raises(DataError, match=r"--columns tokens=tweet: expected a field of classify: text, label"):
        read_data([path], "classify", {"tokens": "tweet"})


@pytest.mark.parametrize("text", ["so fine,good\nso so,bad\nfine,good\n", "I like it a lot,good\nso so,bad\n"])
def test_a_table_without_a_header_says_what_it_is_taken_for(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.csv", text)
    assert read_data([path], "classify")[0] == TextExample(text.split(",")[0], "good")
    assert "has no header; its columns are read as text, label; to change that: --columns text=0," in (
        capsys.readouterr().err
    )
    assert read_data([path], "classify", {"text": "0", "label": "1"})[0].label == "good"  # type: ignore[union-attr]


def test_a_table_without_a_header_that_could_be_anything_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "1,so fine,good\n2,so so,bad\n")
    with pytest.raises(DataError, match=r"a\.csv:1: the first line \(1, so fine, good\) has no names .*text=0,label"):
        read_data([path], "classify")


@pytest.mark.parametrize("header", ["sentence,content,label", "sentence,label,intent,class,content"])
def test_two_columns_that_could_be_the_text_are_refused(tmp_path: Path, header: str) -> None:
    path = write(tmp_path / "a.csv", f"{header}\n{','.join('abcde'[: header.count(',') + 1])}\n")
    with pytest.raises(DataError, match=r"text could be the column sentence or content, .*--columns text=sentence"):
        read_data([path], "classify")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('text,label\n"a\nb",x\n,y\n', r"a\.csv:4: \"text\" is '', expected visible text"),
        ('text,label\n"a\n\nb",x\nc\n', r"a\.csv:5: 1 cell \('c', …\), expected 2 as in the first line \(text, label"),
        ("text,label\na,x\nb, c,y\n", r"a\.csv:3: 3 cells \('b', …\), expected 2"),
        ('text,label\na,x\n"b,y\nc,z\n', r"a\.csv:3: a quote opens here and is never closed"),
        ('text,label\na,x\n"b" c,y\n', r"a\.csv:3: ',' expected after '\"'"),
        ('text,label\na,x\n"b,y\nc,z\n"d",w\n', r"a\.csv:3: the row of lines 3 to 5: ',' expected after"),
        ('text,label\n"b,y\nc",z,w\n', r"a\.csv:2: the row of lines 2 to 3: 3 cells"),
        ('"text"s,label\na,x\n', r"a\.csv:1: ',' expected after"),
        ("text,label\na,x\nb,\n", r"a\.csv:3: \"label\" is ''"),
        ("text,text,label\na,b,x\n", r"a\.csv:1: two columns are named 'text'"),
    ],
)
def test_a_broken_row_of_a_table_is_named_by_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_data([write(tmp_path / "a.csv", text)], "classify")


def test_another_encoding_is_refused_with_the_command_that_converts_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\nfine,x\ncafé,y\n", "cp1252")
    command = f"iconv -f WINDOWS-1252 -t UTF-8 {path} > {tmp_path / 'a.utf8.csv'}"
    with pytest.raises(DataError, match=rf"a\.csv:3: byte 3 is 0xe9, which is not UTF-8.*{re.escape(command)}"):
        read_data([path], "classify")
