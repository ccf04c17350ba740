"""The unfinished corpus in OUT.partial: documents are appended to it, and a later command continues it.

After every COMMITTED documents the files are flushed, and their lengths are noted with a hash of all texts so far. The
same command later truncates the files to the last note whose texts are unchanged, and continues there. So it resumes
after an interruption, after the correction of a broken row, or with more files.
"""

import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Any

from models.tokenizer import Tokenizer
from training.errors import DataError
from training.run.atomic_files import LOCK, write_whole
from training.text.corpus import TOKENIZER, Counts
from training.text.corpus_writer import NAMES, Sentences, Writer, array_name, raw_name
from training.text.examples import Document
from training.text.held_out import KEPT, with_duplicates, without_repeated

COMMITTED = 1000
"""Documents between two notes: the most that an interruption can cost."""
COMMITTED_CHARACTERS = 1 << 24
"""If documents are long: characters between two notes."""
PARTS = ("train", "validation")
RAW = [raw_name(part, name) for part in (*PARTS, KEPT) for name in NAMES]
WRITTEN = {
    *RAW,
    *(array_name(part, name) for part in PARTS for name in NAMES if name != "records"),
    *(name + end for name in ("progress.json", "progress.jsonl", "manifest.json") for end in ("", ".partial")),
    TOKENIZER,
}
"""All files that OUT.partial can have; progress.json comes from older versions."""
OF_TOKENIZER = {"tokenizer.json", "vocab.txt", "tokenizer_config.json"}


class Work:
    """The two parts of an unfinished corpus, and their progress."""

    def __init__(self, directory: Path, asked: dict[str, Any], tokenizer: Tokenizer) -> None:
        """`asked`: everything that determines the result for a document; other work in `directory` is removed."""
        self.directory = directory
        self.tokenizer = tokenizer
        self.asked: dict[str, Any] = json.loads(json.dumps(asked))
        self.noted = directory / "progress.jsonl"
        self.documents = 0
        """Documents that are written, or had no tokens."""
        self.writers: dict[str, Writer] = {}
        self._texts = hashlib.blake2b(digest_size=16)
        self._hashes: deque[str] = deque()
        """Hashes of all texts up to each document that was read and is not written yet."""
        self._latest = ""
        self._since, self._characters = 0, 0

    def go_on(self, found: Iterable[Document]) -> Iterator[Document]:
        """Skip the documents that are on disk, and return the others."""
        rest, notes, kept = iter(found), self._notes(), list[dict[str, Any]]()
        for note in notes:
            lot = list(islice(rest, note["documents"] - self.documents))
            texts = self._texts.copy()
            for document in lot:
                add_text(texts, document)
            if texts.hexdigest() != note["texts"]:
                rest = chain(lot, rest)
                break
            self._texts, self.documents = texts, note["documents"]
            kept.append(note)
        self._open(kept)
        return self._hashed(rest)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            writer.close()

    def add(self, sentences: Sentences, part: str) -> None:
        """Append the next document to a part."""
        self.writers[part].add(sentences)
        self.documents += 1
        self._latest = self._hashes.popleft()
        self._since, self._characters = self._since + 1, self._characters + sentences.characters

    @property
    def is_due(self) -> bool:
        """Tell whether a note is due."""
        return self._since >= COMMITTED or self._characters >= COMMITTED_CHARACTERS

    def commit(self) -> None:
        """Flush the files, and note their lengths."""
        if self._since:
            parts = {part: asdict(writer.flush()) for part, writer in self.writers.items()}
            append(self.noted, {"documents": self.documents, "texts": self._latest, "parts": parts})
        self._since = self._characters = 0

    def finish(self) -> dict[str, Counts]:
        """Write the arrays of both parts, after removing held-out documents that the training part has."""
        train, validation = self.writers["train"], self.writers["validation"]
        with closing(without_repeated(train, validation, self.tokenizer)) as kept:
            return {"train": with_duplicates(train).finish(), "validation": with_duplicates(kept).finish()}

    def leave(self) -> None:
        """Remove the files that a finished corpus does not need."""
        for name in (self.noted.name, *RAW):
            (self.directory / name).unlink(missing_ok=True)

    def _hashed(self, found: Iterable[Document]) -> Iterator[Document]:
        for document in found:
            add_text(self._texts, document)
            self._hashes.append(self._texts.hexdigest())
            yield document

    def _notes(self) -> list[dict[str, Any]]:
        """Return the notes for the same vocabulary and rules, up to an incomplete line."""
        found = list(read_objects(self.noted))
        return found[1:] if found and found[0] == self.asked else []

    def _open(self, kept: Sequence[dict[str, Any]]) -> None:
        """Continue after the last valid note, or from the beginning."""
        if not kept:
            self._clear()
        parts = kept[-1]["parts"] if kept else {}
        self.writers = {
            part: Writer(self.directory, part, self.tokenizer, Counts(**parts.get(part, {}))) for part in PARTS
        }
        write_whole(self.noted, "".join(json.dumps(note) + "\n" for note in (self.asked, *kept)))

    def _clear(self) -> None:
        """Remove leftovers of another command; raise DataError for a file that no command can have written."""
        found = [path for path in self.directory.iterdir() if path.name != LOCK]
        for path in found:
            inside = {one.name for one in path.iterdir()} if path.is_dir() else set()
            if path.name not in WRITTEN or path.is_dir() != (path.name == TOKENIZER) or inside - OF_TOKENIZER:
                raise DataError(f"{path} is not part of a corpus and would be removed; move it, or name another --out")
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def add_text(texts: Any, document: Document) -> None:
    """Add a text to a hash, with its length, so that its end counts too."""
    raw = document.text.encode()
    texts.update(len(raw).to_bytes(8, "little"))
    texts.update(raw)


def append(path: Path, note: dict[str, Any]) -> None:
    with path.open("a", encoding="utf8") as file:
        file.write(json.dumps(note) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    try:
        for line in path.read_text(encoding="utf8").splitlines():
            yield json.loads(line)
    except (FileNotFoundError, ValueError):
        return
