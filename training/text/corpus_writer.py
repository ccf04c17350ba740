"""Writes the ids of documents: first to plain files that grow, then to the arrays of one part of a corpus."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from models.tokenizer import Tokenizer
from training.errors import TrainingError
from training.text.corpus import Counts

BLOCK = 1 << 20  # values in memory at once while arrays are written
RECORD = np.dtype([("digest", "<u8"), ("characters", "<u4"), ("unknown", "<u4")])
"""What is stored of a document besides its ids; see `Sentences`."""
NAMES = ("tokens", "sentences", "documents", "records")
"""The files of a part: ids, tokens per sentence, sentences per document, and one RECORD per document."""


class Sentences(NamedTuple):
    """The sentences of a document: all ids in order, and the number of each sentence."""

    ids: NDArray[np.uint32]
    lengths: NDArray[np.uint32]
    digest: int = 0
    """Two documents with the same digest are equal, except for blanks."""
    characters: int = 0
    """Characters of the text, without blanks."""
    unknown: int = 0
    """Characters inside a token [UNK]."""


class Writer:
    """Appends documents to the files of one part; their names start with `raw`, by default the name of the part."""

    def __init__(self, directory: Path, part: str, tokenizer: Tokenizer, counts: Counts, raw: str = "") -> None:
        self.directory = directory
        self.part = part
        self.raw = raw or part
        self.counts = counts
        self.unknown_id = tokenizer.unk_id
        self.dtype: DTypeLike = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        sizes = (counts.tokens, counts.sentences, counts.documents, counts.documents)
        types = (self.dtype, np.uint32, np.uint32, RECORD)
        self.types: dict[str, DTypeLike] = dict(zip(NAMES, types, strict=True))
        self._files = {
            name: self._open(name, size * np.dtype(self.types[name]).itemsize)
            for name, size in zip(NAMES, sizes, strict=True)
        }

    def add(self, sentences: Sentences) -> None:
        ids, count = sentences.ids, len(sentences.lengths)
        if not count:
            return
        self._files["tokens"].write(ids.astype(self.dtype).tobytes())
        self._files["sentences"].write(sentences.lengths.tobytes())
        self._files["documents"].write(np.uint32(count).tobytes())
        self._files["records"].write(np.array(sentences[2:], RECORD).tobytes())
        counts = self.counts
        self.counts = replace(
            counts,
            documents=counts.documents + 1,
            sentences=counts.sentences + count,
            tokens=counts.tokens + len(ids),
            unknown=counts.unknown + int((ids == self.unknown_id).sum()),
            characters=counts.characters + sentences.characters,
            unknown_characters=counts.unknown_characters + sentences.unknown,
            single=counts.single + (count == 1),
        )

    def flush(self) -> Counts:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        return self.counts

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def finish(self) -> Counts:
        """Write the three arrays."""
        self.flush()
        self._write_array("tokens", self.dtype, self.counts.tokens)
        self._write_starts("sentences", self.counts.sentences)
        self._write_starts("documents", self.counts.documents)
        return self.counts

    def blocks(self, name: str) -> Iterator[Any]:
        """Yield the flushed values of one file, in arrays of up to BLOCK values."""
        with self._path(name).open("rb") as file:
            while len(block := np.fromfile(file, self.types[name], BLOCK)):
                yield block

    def documents(self) -> Iterator[Sentences]:
        """Yield the documents again, from disk."""
        self.flush()
        with ExitStack() as stack:
            files = {name: stack.enter_context(self._path(name).open("rb")) for name in NAMES}
            for _ in range(self.counts.documents):
                [count] = np.fromfile(files["documents"], np.uint32, 1)
                lengths = np.fromfile(files["sentences"], np.uint32, int(count))
                ids = np.fromfile(files["tokens"], self.dtype, int(lengths.sum()))
                [record] = np.fromfile(files["records"], RECORD, 1).tolist()
                yield Sentences(ids.astype(np.uint32), lengths, *record)

    def _path(self, name: str) -> Path:
        return self.directory / raw_name(self.raw, name)

    def _open(self, name: str, size: int) -> Any:
        """Open a file for appending after its first `size` bytes; later bytes were not committed and are removed."""
        path = self._path(name)
        path.touch()
        if path.stat().st_size < size:
            raise TrainingError(
                f"{path} has {path.stat().st_size:,} bytes, expected {size:,} or more; remove {self.directory} and "
                "start the same command again"
            )
        os.truncate(path, size)
        return path.open("ab")

    def _write_array(self, name: str, dtype: DTypeLike, count: int) -> None:
        with self._array(name, dtype, count) as file:
            for block in self.blocks(name):
                file.write(block.tobytes())

    def _write_starts(self, name: str, count: int) -> None:
        """Write the start of each item and the end of the last: cumulative sums of lengths."""
        last = np.zeros(1, np.int64)
        with self._array(name, np.int64, count + 1) as file:
            file.write(last.tobytes())
            for block in self.blocks(name):
                starts = last + np.cumsum(block, dtype=np.int64)
                file.write(starts.tobytes())
                last = starts[-1:]

    @contextmanager
    def _array(self, name: str, dtype: DTypeLike, count: int) -> Iterator[BinaryIO]:
        """Open an array file for `count` values. It is not memory-mapped: on a full disk that kills the process."""
        with (self.directory / array_name(self.part, name)).open("wb") as file:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (count,)}
            np.lib.format.write_array_header_1_0(file, header)
            yield file
            file.flush()
            os.fsync(file.fileno())


def raw_name(part: str, name: str) -> str:
    return f"{part}.{name}.raw"


def array_name(part: str, name: str) -> str:
    return f"{part}.{name}.npy"
