"""JSON files with one value: a list of records, or SQuAD's articles.

SQuAD 1.1 and 2.0 (Rajpurkar et al., 2016 and 2018) nest questions in paragraphs in articles below "data".
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.errors import DataError, RowError
from training.run.json_lines import Line, Row, json_lines, kind_of, row_of
from training.run.text_lines import UNDECODED, checked, text_blocks, text_lines

DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\r\n]*")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]|[^"\[\]{},]+', re.DOTALL)
"""A string, a bracket or a comma, or the text between them."""
BOUNDS = '"[]{},'
REST_OF_NUMBER = re.compile(r"[-+.eE\d]*\Z")
"""Characters at the end of a block after which a number may continue: 1.|5, 1e|5."""
MAX_ELEMENT = 1 << 26
"""Maximum characters of an element of a list."""
MAX_SHOWN = 20
"""Maximum characters of the file that a message shows."""
MAX_WORD = 16
"""Within these last characters of a block, an error may only mean that the block ends: tru, "\\u12."""


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the records of a .json file, element by element for a list; raise DataError for a file that is not JSON.

    A file with one object per line, which several tools also name .json, is read as JSON lines.
    """
    stream = Stream(path)
    first = stream.next_character()
    if first == "[":
        yield from _elements(stream)
    elif first and _has_lines(path):
        yield from json_lines(path)
    elif first:
        yield from _one_value(path)


def _has_lines(path: Path) -> bool:
    """Tell whether the first line is a value by itself, or a broken value before another object."""
    written = (line.strip() for line in text_lines(path) if isinstance(line, str) and line.strip())
    first, second = next(written, ""), next(written, "")
    return bool(second) and ((first[-1:] == "}" and second[:1] == "{") or _is_json(first))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _one_value(path: Path) -> Iterator[Row]:
    text = "".join(text_blocks(path))
    if UNDECODED.search(text):
        list(checked(text_lines(path)))  # raises the error of its line
    start = _after_blanks(text, 0)
    try:
        value, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        number = text.count("\n", 0, getattr(error, "pos", start)) + 1
        raise DataError(f"{path}:{number}: not JSON ({error}), expected JSON; correct the file") from None
    end = _after_blanks(text, end)
    if end == len(text):
        yield from _members(path, value)
    elif "\n" not in text[start:end].rstrip():
        yield from json_lines(path)
    else:
        number, found = text.count("\n", 0, end) + 1, repr(text[end : end + 20])
        wanted = "one value, or one object per line"
        raise DataError(f"{path}:{number}: its object is followed by {found}, expected {wanted}; correct the file")


def _after_blanks(text: str, start: int) -> int:
    found = BLANKS.match(text, start)
    return found.end() if found else start


# ---- lists -----------------------------------------------------------------------------------------------------------


class Stream:
    """A file of which only the text from the current value on is in memory, as far as needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        """The current line, counted from 1."""
        self._blocks = text_blocks(path)
        self._text = ""
        self._at = self._counted = 0

    def next_character(self) -> str:
        """Skip blanks, and return the next character without skipping it; "" at the end."""
        while (after := _after_blanks(self._text, self._at)) == len(self._text) and self._more():
            pass
        self.skip(max(after, self._at) - self._at)
        return self._text[self._at : self._at + 1]

    def skip(self, count: int) -> None:
        """Skip some characters that are in memory."""
        self._at += count
        self.line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at

    def rest(self) -> str:
        """Return the next characters, for a message."""
        while len(self._text) - self._at < MAX_SHOWN and self._more():
            pass
        return self._text[self._at : self._at + MAX_SHOWN]

    def value(self, part: str) -> Any:
        """Read a JSON value and return it; skip a broken value and raise RowError."""
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                past = max(0, getattr(error, "pos", 0) - self._at)  # before more text is read, which changes it
                if self._may_go_on(error) and self._twice(part):
                    continue
                place = f"{self.path}:{self.line + self._text.count(chr(10), self._at, self._at + past)}"
                self._skip_value(part)
                message = f"{place}: {part}: not JSON ({_reason(error)}), expected JSON; correct the file"
                raise RowError(message) from None
            if REST_OF_NUMBER.match(self._text, end) and self._twice(part):
                continue
            undecoded = UNDECODED.search(self._text, self._at, end)
            self.skip(end - self._at)
            if undecoded:
                byte = ord(undecoded.group()) & 0xFF
                found = f"byte 0x{byte:02x}, which is not UTF-8"
                raise RowError(f"{self.path}:{self.line}: {part} holds {found}, expected UTF-8 text; write it again")
            return value

    def _may_go_on(self, error: Exception) -> bool:
        """Tell whether an error may only come from the end of the text in memory."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - MAX_WORD

    def _skip_value(self, part: str) -> None:
        """Skip a broken value, up to the comma or bracket that ends it."""
        depth = 0
        while True:
            token = TOKEN.match(self._text, self._at)
            found = token.group() if token else ""
            goes_on = not found or (found[0] not in BOUNDS and self._at + len(found) == len(self._text))
            if goes_on and self._twice(part):
                continue
            if not found:
                raise DataError(f"{self.path}:{self.line}: {part} is not JSON and has no end; correct the file")
            if depth == 0 and found in (",", "]", "}"):
                return
            depth += (found in ("[", "{")) - (found in ("]", "}"))
            self.skip(len(found))

    def _twice(self, part: str) -> bool:
        """Double the text in memory, so that a long value is not decoded often; return False at the end."""
        held = len(self._text) - self._at
        if held > MAX_ELEMENT:
            found = f"{part} has more than {MAX_ELEMENT:,} characters"
            raise DataError(f"{self.path}:{self.line}: {found}, expected less; divide it, or correct the file")
        grew = self._more()
        while len(self._text) - self._at < 2 * held and self._more():
            pass
        return grew

    def _more(self) -> bool:
        block = next(filter(None, self._blocks), "")
        self._text = self._text[self._at :] + block
        self._at = self._counted = 0
        return bool(block)


def _reason(error: Exception) -> str:
    """Return the reason without its position; the message has the line of the file."""
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _elements(stream: Stream) -> Iterator[Row]:
    """Yield the elements of a list one by one, each with its first line."""
    stream.skip(1)
    count = 0
    while stream.next_character() not in ("]", ""):
        count += 1
        line, part = stream.line, f"element {count}"
        try:
            row = row_of(stream.path, line, stream.value(part), part)
        except RowError as error:
            row = error
        yield row
        after = stream.next_character()
        if after == ",":
            stream.skip(1)
        elif after != "]":
            found = repr(stream.rest()) if after else "the end of the file"
            wanted = "',' or ']'; correct the file"
            raise DataError(f"{stream.path}:{stream.line}: {part} is followed by {found}, expected {wanted}")
    if not stream.next_character():
        raise DataError(f"{stream.path} ends inside its list, expected ']'; copy it again")


# ---- objects ---------------------------------------------------------------------------------------------------------


def _members(path: Path, value: Any) -> Iterator[Row]:
    """Yield the records of an object: SQuAD's questions, the elements of the list in "data", or the object itself."""
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
    """Return a value that is one record; raise DataError for a table of columns, or parts such as "train"."""
    if isinstance(value, dict) and all(isinstance(member, list | dict) for member in value.values()):
        raise DataError(
            f"{path} is one object with the keys {', '.join(value)[:200]}, expected a list of records, or SQuAD's "
            "\"data\"; write a list, or one object per line (pandas: to_json(orient='records'))"
        )
    return row_of(path, 1, value)


def _article(path: Path, paragraphs: Any, part: str) -> Iterator[Row]:
    try:
        found = _list(path, paragraphs, part)
    except RowError as error:
        yield error
        return
    for number, paragraph in enumerate(found):
        inside = f"{part}[{number}]"
        if not isinstance(paragraph, dict) or "context" not in paragraph:
            yield RowError(f'{path}: {inside} has no "context", expected a paragraph with "context" and "qas"; add it')
            continue
        try:
            questions = _list(path, paragraph.get("qas"), f"{inside}.qas")
        except RowError as error:
            yield error
            continue
        for place, question in enumerate(questions):
            row = row_of(path, 0, question, f"{inside}.qas[{place}]")
            if isinstance(row, Line):
                row.record["context"] = paragraph["context"]
            yield row


def _list(path: Path, value: Any, part: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(f"{path}: {part} is {kind_of(value)}, expected a list as in SQuAD; correct the file")
    return value
