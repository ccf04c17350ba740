"""Documents → sentences → token ids on disk: what pretraining reads.

    python -m training corpus wikipedia.jsonl.xz books.jsonl.xz --tokenizer DIR --out CORPUS [--held-out 0.01]

A corpus is a directory of three memory-mapped arrays (token ids, the first token of each sentence, the first sentence
of each document) for each of its two parts, train and validation, and a manifest. Sentences are cut by `sentencex`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sentencex import segment

from models.tokenizer import Tokenizer
from training.data import Document, iter_documents
from training.errors import DataError
from training.progress import progress

LONGEST_SENTENCE = 512  # tokens; a longer "sentence" (a table, a list without stops) is cut here, none is lost

Sentences = list[list[int]]


@dataclass(frozen=True)
class Counts:
    """What a part of a corpus holds."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    single: int = 0
    """Documents of one sentence, which next-sentence pairs cannot use."""


class Corpus:
    """One part of a corpus, memory-mapped.

    `tokens` [T] uint16 or uint32 ids; `sentences` [S + 1] and `documents` [D + 1] int64: sentence s is
    `tokens[sentences[s] : sentences[s + 1]]`, document d the sentences `documents[d]` to `documents[d + 1]`.
    """

    def __init__(self, directory: Path, part: str = "train") -> None:
        self.directory = directory
        self.manifest = read_manifest(directory)
        self.tokens = self._map(part, "tokens")
        self.sentences = self._map(part, "sentences")
        self.documents = self._map(part, "documents")

    def __len__(self) -> int:
        return len(self.documents) - 1

    def _map(self, part: str, name: str) -> NDArray[np.integer]:
        path = self.directory / f"{part}.{name}.npy"
        try:
            array: NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); build the corpus again") from None
        return array


def read_manifest(directory: Path) -> dict[str, object]:
    """Read manifest.json; raise DataError where `directory` holds no finished corpus."""
    path = directory / "manifest.json"
    if not path.exists():
        raise DataError(
            f"{directory} holds no manifest.json; build it with: python -m training corpus FILE... --out {directory}"
        )
    manifest: dict[str, object] = json.loads(path.read_text(encoding="utf8"))
    return manifest


def build_corpus(
    files: Sequence[Path], tokenizer: Path, out: Path, *, held_out: float, limit: int | None, workers: int
) -> dict[str, Counts]:
    """Write the corpus of `files` to `out` by way of a temporary name; raise DataError for text that cannot serve.

    Every 1/held_out-th document of each file goes to the validation part; `limit` ends after so many documents a file.
    """
    if out.exists():
        raise DataError(f"{out} exists; remove it, or name another directory with --out")
    partial_out = out.with_name(out.name + ".partial")
    shutil.rmtree(partial_out, ignore_errors=True)
    partial_out.mkdir(parents=True)
    every = round(1 / held_out) if held_out else 0
    pieces = Tokenizer.read(tokenizer)
    numbered = enumerate(progress(tokenise(documents(files, limit), tokenizer, workers), "documents"), start=1)
    with Writer(partial_out, "train", pieces) as train, Writer(partial_out, "validation", pieces) as validation:
        for number, sentences in numbered:
            (validation if every and number % every == 0 else train).add(sentences)
    counts = {"train": train.finish(), "validation": validation.finish()}
    refuse_useless(counts["train"], files)
    write_manifest(partial_out, tokenizer, files, counts)
    partial_out.rename(out)
    return counts


def documents(files: Sequence[Path], limit: int | None) -> Iterator[Document]:
    for path in files:
        yield from islice(iter_documents(path), limit)


def tokenise(found: Iterable[Document], tokenizer: Path, workers: int) -> Iterator[Sentences]:
    """Cut documents into sentences of ids, in order, in `workers` processes."""
    texts = (document.text for document in found)
    if workers <= 1:
        yield from map(partial(cut, Tokenizer.read(tokenizer)), texts)
        return
    # spawn: a forked process would inherit the locks of the tokenizer's threads
    with get_context("spawn").Pool(workers, prepare, (tokenizer,)) as pool:
        yield from pool.imap(cut_prepared, texts, chunksize=8)


_prepared: list[Tokenizer] = []


def prepare(tokenizer: Path) -> None:
    _prepared[:] = [Tokenizer.read(tokenizer)]


def cut_prepared(text: str) -> Sentences:
    return cut(_prepared[0], text)


def cut(tokenizer: Tokenizer, text: str) -> Sentences:
    """Return the sentences of a text as token ids; a line break always ends one."""
    sentences = [sentence for line in text.split("\n") if line.strip() for sentence in segment("en", line)]
    ids = tokenizer.encode_ids(sentences)
    return [piece[i : i + LONGEST_SENTENCE] for piece in ids for i in range(0, len(piece), LONGEST_SENTENCE)]


class Writer:
    """Appends documents to the three arrays of one part."""

    def __init__(self, directory: Path, part: str, tokenizer: Tokenizer) -> None:
        self.paths = {name: directory / f"{part}.{name}.npy" for name in ("tokens", "sentences", "documents")}
        self.dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        self.unknown_id = tokenizer.unk_id
        self.raw = (directory / f"{part}.raw").open("wb")
        self.lengths: list[int] = []
        self.sizes: list[int] = []
        self.unknown = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def add(self, sentences: Sentences) -> None:
        if not sentences:
            return
        ids = np.fromiter((i for sentence in sentences for i in sentence), self.dtype)
        self.unknown += int((ids == self.unknown_id).sum())
        self.raw.write(ids.tobytes())
        self.lengths += map(len, sentences)
        self.sizes.append(len(sentences))

    def finish(self) -> Counts:
        """Write the arrays, once the writer is closed."""
        raw = Path(self.raw.name)
        tokens = np.lib.format.open_memmap(self.paths["tokens"], "w+", self.dtype, (sum(self.lengths),))
        if len(tokens):
            tokens[:] = np.memmap(raw, self.dtype, "r")
        tokens.flush()
        raw.unlink()
        np.save(self.paths["sentences"], np.cumsum([0, *self.lengths], dtype=np.int64))
        np.save(self.paths["documents"], np.cumsum([0, *self.sizes], dtype=np.int64))
        return Counts(len(self.sizes), len(self.lengths), len(tokens), self.unknown, self.sizes.count(1))


def refuse_useless(counts: Counts, files: Sequence[Path]) -> None:
    """Refuse text that next-sentence prediction cannot learn from."""
    names = ", ".join(str(path) for path in files)
    usable = counts.documents - counts.single
    if counts.documents < 2:
        raise DataError(
            f"{names}: {counts.documents} document(s) for training, expected 2 or more, for a random sentence "
            "comes from another document; pass one JSON object a document"
        )
    if usable < 2:
        raise DataError(
            f"{names}: {counts.single} of {counts.documents} documents have one sentence, which next-sentence "
            "pairs cannot use; pass whole documents, one a line"
        )


def write_manifest(directory: Path, tokenizer: Path, files: Sequence[Path], counts: dict[str, Counts]) -> None:
    pieces = Tokenizer.read(tokenizer)
    vocabulary = "\n".join(pieces.token(i) for i in range(pieces.vocab_size))
    manifest = {
        "format": "bertheads-corpus/1",
        "vocabulary_sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "sources": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
        "parts": {part: asdict(count) for part, count in counts.items()},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf8")
