"""JSON lines, plain or compressed (.xz, .gz, .zst).

A broken line is a DataError that names file and line.
"""

import codecs
import gzip
import json
import lzma
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import zstandard

from models.tokenizer import UNUSABLE
from training.errors import DataError


@dataclass(frozen=True, slots=True)
class Line:
    """One JSON object of a file, and where it stands, for its error messages."""

    path: Path
    number: int
    record: dict[str, Any]

    def fail(self, message: str) -> NoReturn:
        raise DataError(f"{self.path}:{self.number}: {message}")

    def value(self, key: str) -> Any:
        if key not in self.record:
            found = ", ".join(sorted(self.record)) or "no key"
            self.fail(f'key "{key}" is missing among {found}, expected a record with it; add it, or name another task')
        return self.record[key]

    def string(self, key: str) -> str:
        """Return a string with something to see in it, of characters that a text can hold."""
        return self.check_string(self.value(key), f'"{key}"')

    def optional_string(self, key: str) -> str:
        """Return a string, or "" where the key is missing or null (the title of some documents)."""
        return "" if self.record.get(key) is None else self.check_string(self.record[key], f'"{key}"', empty=True)

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
            self.fail(f"{name} holds {place}, which no text can hold; remove it, or write a whole character")
        return value


def visible(character: str) -> bool:
    """Tell what a tokenizer keeps: no blank, no control or format character, no U+FFFD."""
    return unicodedata.category(character)[0] not in "ZC" and character != "\ufffd"


def kind_of(value: Any) -> str:
    """Name a JSON value as its writer knows it: 'the number 3', 'null', 'a list'."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "a string", list: "a list", dict: "an object"}
    return names[type(value)]


def iter_lines(path: Path) -> Iterator[Line]:
    """Yield the JSON objects of a file; raise DataError for what is not UTF-8, not JSON, or not an object."""
    for number, raw in enumerate(raw_lines(path), start=1):
        try:
            record = json.loads(raw.decode("utf8"))
        except UnicodeDecodeError as error:
            found = f"byte {error.start} is 0x{raw[error.start]:02x}, which is not UTF-8"
            raise DataError(f"{path}:{number}: {found}, expected UTF-8 text; convert the file") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}:{number}: not JSON ({error}), expected an object; correct the line") from None
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: {kind_of(record)}, expected a JSON object; correct the line")
        yield Line(path, number, record)


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked; raise DataError for an unknown suffix or a file that is cut off."""
    opened = OPENERS.get(path.suffix)
    if opened is None:
        raise DataError(f"{path} ends in {path.suffix!r}, expected {', '.join(OPENERS)}; rename or convert it")
    try:
        for number, line in enumerate(opened(path)):
            yield line if number else line.removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError) as error:
        raise DataError(f"{path} cannot be read to its end ({error}), expected a whole file; copy it again") from None


def _plain_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _xz_lines(path: Path) -> Iterator[bytes]:
    with lzma.open(path, "rb") as file:
        yield from file


def _gzip_lines(path: Path) -> Iterator[bytes]:
    with gzip.open(path, "rb") as file:
        yield from file


def _zstd_lines(path: Path) -> Iterator[bytes]:
    """Yield lines; the library's own reader ends quietly at a cut file, so frame ends are looked at here."""
    with path.open("rb") as file:
        rest = b""
        for block in _zstd_blocks(iter(lambda: file.read(1 << 16), b"")):
            *lines, rest = (rest + block).split(b"\n")
            yield from (line + b"\n" for line in lines)
        if rest:
            yield rest


def _zstd_blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    for chunk in chunks:
        while chunk:
            if frame.eof:  # zstd -T and pzstd write several frames one after the other
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last zstd frame is cut off")


OPENERS: dict[str, Callable[[Path], Iterator[bytes]]] = {
    ".jsonl": _plain_lines,
    ".txt": _plain_lines,
    ".xz": _xz_lines,
    ".gz": _gzip_lines,
    ".zst": _zstd_lines,
}
