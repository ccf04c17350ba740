"""JSON lines, plain or compressed (.xz .gz .zst .bz2); blank lines are skipped.

A broken line is a DataError that names file and line.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from models.tokenizer import UNUSABLE
from training.errors import DataError, RowError
from training.run.text_lines import text_lines


@dataclass(frozen=True, slots=True)
class Line:
    """One record of a file, and its place for error messages."""

    path: Path
    number: int
    """Number of its first line, counted from 1; 0 in a file without lines."""
    record: dict[str, Any]
    part: str = ""
    """Its place in the line or in the file, such as "element 3"."""

    @property
    def line(self) -> int:
        """Its line number if no other row has the same, otherwise 0."""
        return 0 if self.part else self.number

    @property
    def place(self) -> str:
        number = f":{self.number}" if self.number else ""
        return f"{self.path}{number}" + (f": {self.part}" if self.part else "")

    def fail(self, message: str) -> NoReturn:
        raise RowError(f"{self.place}: {message}", self.line)

    def value(self, key: str) -> Any:
        if key not in self.record:
            found = ", ".join(sorted(map(str, self.record))) or "no key"
            self.fail(
                f'key "{key}" is missing among {found}, expected a record with it; add it, name its column '
                f"(--columns {key}=NAME), or name another task"
            )
        return self.record[key]

    def string(self, key: str) -> str:
        """Return a string that has a visible character and no character that a text cannot contain."""
        return self.check_string(self.value(key), f'"{key}"')

    def strings(self, key: str) -> list[str]:
        values = self.value(key)
        if not isinstance(values, list):
            self.fail(f'"{key}" is {kind_of(values)}, expected a list of strings; correct the line')
        return [self.check_string(value, f'"{key}"[{index}]') for index, value in enumerate(values)]

    def check_string(self, value: Any, name: str, *, empty: bool = False) -> str:
        if not isinstance(value, str):
            self.fail(f"{name} is {kind_of(value)}, expected a string; correct the line")
        if not empty and not any(map(visible, value)):
            self.fail(f"{name} is {value[:20]!r}, expected visible text; fill it in or remove the line")
        if found := UNUSABLE.search(value):
            place = f"U+{ord(found.group()):04X} at character {found.start()}"
            self.fail(f"{name} has {place}, which no text can hold; remove it, or write a whole character")
        return value


Row = Line | DataError
"""A record of a file, or the error in it."""


def visible(character: str) -> bool:
    """Tell whether a tokenizer keeps a character: it is not a space, a control or format character, or U+FFFD."""
    return unicodedata.category(character)[0] not in "ZC" and character != "\ufffd"


def kind_of(value: Any) -> str:
    """Name the kind of a JSON value: 'the number 3', 'null', 'a list'."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def json_lines(path: Path) -> Iterator[Row]:
    """Yield the JSON object of each line, or a DataError for a broken line."""
    for number, text in enumerate(text_lines(path), start=1):
        if isinstance(text, DataError):
            yield text
        elif text.strip():
            yield _parsed(path, number, text)


def _parsed(path: Path, number: int, text: str) -> Row:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = f"{path}:{number}: not JSON ({error}): {text.strip()[:30]!r}"
        return RowError(f"{found}, expected an object; {_remedy(number, text)}", number)
    if number == 1 and isinstance(record, list) and all(isinstance(one, dict) for one in record):
        return RowError(f"{path}:1: a list, expected an object per line; {_remedy(1, text)}", 1)
    return row_of(path, number, record)


def _remedy(number: int, text: str) -> str:
    """Return what to do about a line; a first line that only opens a value shows that the file is one JSON value."""
    if number == 1 and text.strip()[0] in "[{":
        return "write one object per line, or, if the file is one list, let its name end in .json"
    return "correct the line"


def row_of(path: Path, number: int, value: Any, part: str = "") -> Row:
    """Return a JSON value as a record: an object, or spaCy's pair of a text and an object of entities."""
    line = Line(path, number, {}, part)
    if isinstance(value, list) and len(value) == 2 and isinstance(value[1], dict) and "entities" in value[1]:
        value = value[1] | {"text": value[0]}
    if not isinstance(value, dict):
        return RowError(f"{line.place}: {kind_of(value)}, expected a JSON object; correct the line", line.line)
    return Line(path, number, value, part)
