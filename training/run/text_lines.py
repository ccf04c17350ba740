"""The lines of a text file, plain or compressed (.xz .gz .zst .bz2), in UTF-8 or in UTF-16 with its byte order mark.

A line that is not text is a DataError among the lines, so that its reader decides whether to skip it.
"""

import bz2
import codecs
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import zstandard

from training.errors import DataError

ItemT = TypeVar("ItemT")


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked; raise DataError for a file that is missing or cut off."""
    opened = OPENERS.get(path.suffix.casefold(), _plain_lines)
    try:
        for number, line in enumerate(opened(path)):
            yield line if number else line.removeprefix(codecs.BOM_UTF8)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError) as error:
        raise DataError(f"{path} cannot be read to its end ({error}), expected a whole file; copy it again") from None


def text_lines(path: Path) -> Iterator[str | DataError]:
    """Yield the lines of a file as text, line breaks included; a DataError in place of one that is not UTF-8."""
    raw = raw_lines(path)
    first = next(raw, b"")
    lines = chain([first] if first else [], raw)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _utf16_lines(path, lines)
    else:
        yield from (_decoded(path, number, line) for number, line in enumerate(lines, start=1))


def checked(items: Iterable[ItemT | DataError]) -> Iterator[ItemT]:
    """Pass items on, and raise the first DataError among them."""
    for item in items:
        if isinstance(item, DataError):
            raise item
        yield item


def unpacked_suffix(path: Path) -> str:
    """Return the suffix of a file without that of its compression, in small letters: .csv of train.CSV.gz."""
    name = path.with_suffix("") if path.suffix.casefold() in OPENERS else path
    return name.suffix.casefold()


def _decoded(path: Path, number: int, line: bytes) -> str | DataError:
    try:
        return line.decode("utf8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{line[error.start]:02x}, which is not UTF-8"
        return DataError(f"{path}:{number}: {found}, expected UTF-8 text; {_remedy(path, line)}")


def _remedy(path: Path, line: bytes) -> str:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        encoding = "ENCODING"
    else:
        encoding = "WINDOWS-1252"
    file = path.with_suffix("") if path.suffix.casefold() in OPENERS else path
    unpack = "unpack it and convert it" if file != path else "convert it"
    return f"{unpack}: iconv -f {encoding} -t UTF-8 {file} > {file.with_suffix('.utf8' + file.suffix)}"


def _utf16_lines(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of UTF-16, whose bytes were divided at the byte of a line break."""
    number, rest = 1, ""
    try:
        for piece in codecs.iterdecode(lines, "utf-16"):
            *whole, rest = (rest + piece).split("\n")
            number += len(whole)
            yield from (line + "\n" for line in whole)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-16 ({error.reason}), expected it whole; save it as UTF-8") from None
    if rest:
        yield rest


# ---- compression -----------------------------------------------------------------------------------------------------


def _plain_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def _lines_by(opened: Callable[[Path], Any]) -> Callable[[Path], Iterator[bytes]]:
    def lines(path: Path) -> Iterator[bytes]:
        with opened(path) as file:
            yield from file

    return lines


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
    ".xz": _lines_by(lambda path: lzma.open(path, "rb")),
    ".gz": _lines_by(lambda path: gzip.open(path, "rb")),
    ".bz2": _lines_by(lambda path: bz2.open(path, "rb")),
    ".zst": _zstd_lines,
}
"""By suffix; every other file is read as it is."""
