"""JSON files that are one value: a list of records, or SQuAD's articles.

SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016 and 2018) nest questions in paragraphs in articles below "data".
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import DataError
from training.run.json_lines import Line, Row, json_lines, kind_of, row_of
from training.run.text_lines import checked, text_lines

DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\r\n]*")


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the records of a .json file; raise DataError for one that is not JSON.

    A file of one object per line, as several tools name .json too, is read as JSON lines.
    """
    text = "".join(checked(text_lines(path)))
    start = _after_blanks(text, 0)
    if text[start : start + 1] == "[":
        yield from _elements(path, text, start)
    elif start < len(text):
        value, end = _value(path, text, start, "")
        if _after_blanks(text, end) == len(text):
            yield from _members(path, value)
        elif "\n" not in text[start:end]:
            yield from json_lines(path)
        else:
            raise _followed(path, text, end, "its object", "one value, or one object per line")


def _after_blanks(text: str, start: int) -> int:
    found = BLANKS.match(text, start)
    return found.end() if found else start


def _value(path: Path, text: str, start: int, part: str) -> tuple[Any, int]:
    try:
        return DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        number = text.count("\n", 0, getattr(error, "pos", start)) + 1
        place = f"{path}:{number}" + (f": {part}" if part else "")
        raise DataError(f"{place}: not JSON ({error}), expected JSON; correct the file") from None


def _elements(path: Path, text: str, start: int) -> Iterator[Row]:
    """Yield the elements of a list one by one, each with the line where it begins."""
    line, counted, count = 1, 0, 0
    start = _after_blanks(text, start + 1)
    while text[start : start + 1] not in ("]", ""):
        count += 1
        line, counted = line + text.count("\n", counted, start), start
        value, end = _value(path, text, start, f"element {count}")
        yield row_of(path, line, value, f"element {count}")
        end = _after_blanks(text, end)
        if text[end : end + 1] not in (",", "]"):
            raise _followed(path, text, end, f"element {count}", "',' or ']'")
        start = _after_blanks(text, end + 1) if text[end] == "," else end
    if not text[start:]:
        raise DataError(f"{path} ends inside its list, expected ']'; copy it again")


def _followed(path: Path, text: str, end: int, part: str, wanted: str) -> DataError:
    end = _after_blanks(text, end)
    found = repr(text[end : end + 20]) if end < len(text) else "the end of the file"
    number = text.count("\n", 0, end) + 1
    return DataError(f"{path}:{number}: {part} is followed by {found}, expected {wanted}; correct the file")


def _members(path: Path, value: Any) -> Iterator[Row]:
    """Yield the records of an object: SQuAD's questions, or the elements of the list below "data"; or itself."""
    found = value.get("data") if isinstance(value, dict) else None
    if not isinstance(found, list):
        yield _only(path, value)
        return
    for number, element in enumerate(found):
        part = f"data[{number}]"
        if isinstance(element, dict) and "paragraphs" in element:
            yield from _article(path, element["paragraphs"], f"{part}.paragraphs")
        else:
            yield row_of(path, 0, element, part)


def _only(path: Path, value: Any) -> Row:
    """Return a value that is a record by itself; raise DataError for a table of columns, or parts such as "train"."""
    if isinstance(value, dict) and all(isinstance(member, list | dict) for member in value.values()):
        raise DataError(
            f"{path} is one object with the keys {', '.join(value)[:200]}, expected a list of records, or SQuAD's "
            "\"data\"; write a list, or one object per line (pandas: to_json(orient='records'))"
        )
    return row_of(path, 1, value)


def _article(path: Path, paragraphs: Any, part: str) -> Iterator[Row]:
    for number, paragraph in enumerate(_list(path, paragraphs, part)):
        inside = f"{part}[{number}]"
        if not isinstance(paragraph, dict) or "context" not in paragraph:
            yield DataError(f'{path}: {inside} has no "context", expected a paragraph with "context" and "qas"; add it')
            continue
        questions = _list(path, paragraph.get("qas"), f"{inside}.qas")
        for place, question in enumerate(questions):
            row = row_of(path, 0, question, f"{inside}.qas[{place}]")
            if isinstance(row, Line):
                row.record["context"] = paragraph["context"]
            yield row


def _list(path: Path, value: Any, part: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}: {part} is {kind_of(value)}, expected a list as in SQuAD; correct the file")
    return value
