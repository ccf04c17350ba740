"""The lines of a text file, plain or compressed (.xz .gz .zst .bz2), in UTF-8 or in UTF-16 with its byte order mark.

A line that is not text becomes a DataError among the lines, so the reader can decide whether to skip it.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import shlex
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import zstandard

from training.errors import DataError, RowError

ItemT = TypeVar("ItemT")

MAX_LINE = 1 << 26
"""Maximum bytes of a line: 64 MiB, more than any sensible text."""
BLOCK = 1 << 16
"""Bytes or characters per read."""
UNDECODED = re.compile("[\udc80-\udcff]")
"""Characters that stand for bytes which are not UTF-8 (Python's error handler "surrogateescape")."""


class UndecodedLine(RowError):
    """A line that is not UTF-8."""

    def __init__(self, message: str, number: int, line: bytes) -> None:
        super().__init__(message, number)
        self.line = line


def raw_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, unpacked; raise DataError for a file that is missing or cut off.

    A line longer than MAX_LINE comes in several pieces.
    """
    with _whole(path), opened(path) as file:
        first = file.readline(MAX_LINE)
        if first.startswith(codecs.BOM_UTF8):  # the mark is not part of the line or its length
            first = first.removeprefix(codecs.BOM_UTF8)
            first += b"" if first.endswith(b"\n") else file.readline(len(codecs.BOM_UTF8))
        if first:
            yield first
        yield from iter(partial(file.readline, MAX_LINE), b"")


def text_lines(path: Path) -> Iterator[str | DataError]:
    """Yield the lines of a file as text, with line breaks; a RowError for a line that is not text or too long.

    The error for a line that is not text is an UndecodedLine, which has its bytes.
    """
    raw = raw_lines(path)
    first = next(raw, b"")
    lines = chain([first] if first else [], raw)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _utf16_lines(path, lines)
    else:
        yield from (_decoded(path, number, line) for number, line in enumerate(_bounded(lines), start=1))


def text_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a file in blocks that may end inside a line; bytes that are not UTF-8 become UNDECODED."""
    with _whole(path), opened(path) as file:
        block = file.read(BLOCK)
        is_utf16 = block.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        decoder = codecs.getincrementaldecoder("utf-16" if is_utf16 else "utf-8-sig")("surrogateescape")
        try:
            while block:
                yield decoder.decode(block)
                block = file.read(BLOCK)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-16 ({error.reason}), expected text; save it as UTF-8") from None


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn the errors of reading a missing or damaged file into a DataError."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} does not exist, expected a data file; check the path") from None
    except PermissionError:
        raise DataError(f"{path} may not be read by this user, expected a readable file; allow it with chmod") from None
    except (EOFError, lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError) as error:
        raise DataError(f"{path} cannot be read to its end ({error}), expected all of it; copy it again") from None


def checked(items: Iterable[ItemT | DataError]) -> Iterator[ItemT]:
    """Yield the items, and raise the first DataError among them."""
    for item in items:
        if isinstance(item, DataError):
            raise item
        yield item


def unpacked_suffix(path: Path) -> str:
    """Return the suffix without that of the compression, in lowercase: .csv for train.CSV.gz."""
    name = path.with_suffix("") if path.suffix.casefold() in OPENERS else path
    return name.suffix.casefold()


def _bounded(lines: Iterable[bytes]) -> Iterator[bytes | None]:
    """Yield lines, and None for a line that came in several pieces."""
    inside = False
    for line in lines:
        ends = line.endswith(b"\n")
        if not inside:
            yield line if ends or len(line) < MAX_LINE else None
        inside = not ends and len(line) == MAX_LINE


def _decoded(path: Path, number: int, line: bytes | None) -> str | DataError:
    if line is None:
        return _too_long(path, number)
    try:
        return line.decode("utf8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{line[error.start]:02x}, which is not UTF-8"
        message = f"{path}:{number}: {found}, expected UTF-8 text; {_remedy(path, line)}"
        return UndecodedLine(message, number, line)


def _remedy(path: Path, line: bytes) -> str:
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        encoding = "ENCODING"
    else:
        encoding = "WINDOWS-1252"
    file = path.with_suffix("") if path.suffix.casefold() in OPENERS else path
    unpack = "unpack it and convert it" if file != path else "convert it"
    names = [shlex.quote(str(one)) for one in (file, file.with_suffix(".utf8" + file.suffix))]
    return f"{unpack}: iconv -f {encoding} -t UTF-8 {names[0]} > {names[1]}"


def _utf16_lines(path: Path, lines: Iterable[bytes]) -> Iterator[str | DataError]:
    """Yield the lines of UTF-16; its bytes come split at the byte of a line break, which may be half a character."""
    number, rest, is_long = 1, "", False
    try:
        for piece in codecs.iterdecode(lines, "utf-16"):
            *whole, rest = (rest + piece).split("\n")
            for line in whole:
                yield _too_long(path, number) if is_long or _is_long(line) else line + "\n"
                number, is_long = number + 1, False
            if is_long or _is_long(rest):
                is_long, rest = True, ""
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-16 ({error.reason}), expected text; save it as UTF-8") from None
    if is_long:
        yield _too_long(path, number)
    elif rest:
        yield rest


def _is_long(line: str) -> bool:
    """Tell whether a line of UTF-16 is longer than MAX_LINE allows, by two bytes per character."""
    return 2 * len(line) >= MAX_LINE


def _too_long(path: Path, number: int) -> RowError:
    return RowError(f"{path}:{number}: a line of more than {MAX_LINE >> 20} MiB, expected less; split it", number)


# ---- compression -----------------------------------------------------------------------------------------------------


def opened(path: Path) -> BinaryIO:
    """Open a file to read its unpacked content; raise DataError if its first bytes contradict its name."""
    if path.is_file():
        _check_content(path)
    return OPENERS.get(path.suffix.casefold(), _open_plain)(path)


def _check_content(path: Path) -> None:
    with path.open("rb") as file:
        first = file.read(8)
    found = next((magic for magic in CONTENTS if first.startswith(magic)), None)
    suffix = path.suffix.casefold()
    if found is None and suffix in OPENERS and first and all(byte >= 32 or byte in b"\t\r\n" for byte in first):
        raise DataError(f"{path} is plain text, expected the format of its name; remove {path.suffix} from its name")
    if found is not None and suffix not in OPENERS:
        kind, remedy = CONTENTS[found]
        raise DataError(f"{path} is {kind}, expected text; {remedy}")


CONTENTS = {
    b"\x1f\x8b": ("compressed with gzip", "add .gz to its name"),
    b"\xfd7zXZ": ("compressed with xz", "add .xz to its name"),
    b"(\xb5/\xfd": ("compressed with zstd", "add .zst to its name"),
    b"BZh91AY": ("compressed with bzip2", "add .bz2 to its name"),
    b"PK\x03\x04": ("a ZIP archive or an Excel sheet", "unpack it, or save the sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an old Excel or Word file", "save it as CSV UTF-8"),
    b"PAR1\x15": ("a Parquet file", "let its name end in .parquet"),
    b"%PDF-": ("a PDF", "extract its text"),
}
"""What a file is by its first bytes, and how to make text of it."""


def _open_plain(path: Path) -> BinaryIO:
    return path.open("rb")


def _open_zstd(path: Path) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Zstd(path), BLOCK))


class _Zstd(io.RawIOBase):
    """Reads a zstd file and checks the end of each frame; the library's reader silently accepts a truncated file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._blocks = filter(None, _zstd_blocks(iter(lambda: self._file.read(BLOCK), b"")))
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _zstd_blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    for chunk in chunks:
        while chunk:
            if frame.eof:  # zstd -T and pzstd write several frames
                frame = zstandard.ZstdDecompressor().decompressobj()
            yield frame.decompress(chunk)
            chunk = frame.unused_data if frame.eof else b""
    if not frame.eof:
        raise EOFError("the last zstd frame is cut off")


OPENERS: dict[str, Callable[[Path], BinaryIO]] = {
    ".xz": lambda path: cast(BinaryIO, lzma.open(path, "rb")),
    ".gz": lambda path: cast(BinaryIO, gzip.open(path, "rb")),
    ".bz2": lambda path: cast(BinaryIO, bz2.open(path, "rb")),
    ".zst": _open_zstd,
}
"""How to open a file, by suffix; other files are read as they are."""
