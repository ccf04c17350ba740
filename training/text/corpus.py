"""A corpus: documents as token ids on disk, for pretraining.

    python -m training corpus wikipedia.jsonl.xz books.txt more.parquet --tokenizer DIR --out CORPUS [--held-out 0.01]

A corpus is a directory with two parts, train and validation. Each has three memory-mapped arrays: token ids, the first
token of each sentence, and the first sentence of each document. The tokenizer and a manifest are beside them.
training/text/corpus_builder.py builds it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.tokenizer import Tokenizer
from training.errors import DataError

TOKENIZER = "tokenizer"  # directory of a corpus
BLOCK = 1 << 22  # tokens


@dataclass(frozen=True)
class Counts:
    """Counts of a part of a corpus."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    """Tokens that are [UNK]."""
    characters: int = 0
    """Characters, without blanks."""
    unknown_characters: int = 0
    """Characters inside a token [UNK]."""
    single: int = 0
    """Documents with one sentence, which next-sentence pairs cannot use."""
    repeated: int = 0
    """Held-out documents that were removed because the training part has them too."""
    duplicates: int = 0
    """Documents that equal an earlier one of the part, except for blanks."""

    @property
    def unknown_share(self) -> float:
        """Share of [UNK] among the tokens."""
        return self.unknown / max(1, self.tokens)

    @property
    def unknown_character_share(self) -> float:
        """Share of unknown characters."""
        return self.unknown_characters / max(1, self.characters)


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

    def has_rows(self, nsp: bool) -> bool:
        """Tell whether pretraining can read rows from it, with next sentences or without."""
        return len(self) >= 2 and (not nsp or bool((np.diff(self.documents) > 1).any()))

    def token_counts(self, vocab_size: int) -> NDArray[np.int64]:
        """Return how often each of `vocab_size` ids occurs; one block of tokens is in memory at a time."""
        counts = np.zeros(vocab_size, np.int64)
        for start in range(0, len(self.tokens), BLOCK):
            counts += np.bincount(self.tokens[start : start + BLOCK], minlength=vocab_size)
        return counts

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raise DataError if the ids belong to another vocabulary: they would silently be read as other words."""
        mine, theirs = str(self.manifest["vocabulary_sha256"]), vocabulary_hash(tokenizer)
        if mine != theirs:
            raise DataError(
                f"{self.directory} was tokenized by vocabulary {mine[:12]}…, expected the checkpoint's {theirs[:12]}…; "
                "build the corpus again with the checkpoint's tokenizer"
            )

    def _map(self, part: str, name: str) -> NDArray[np.integer]:
        path = self.directory / f"{part}.{name}.npy"
        try:
            array: NDArray[np.integer] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); build the corpus again") from None
        return array


def read_manifest(directory: Path) -> dict[str, object]:
    """Read manifest.json; raise DataError if `directory` has no finished corpus."""
    path = directory / "manifest.json"
    if not path.exists():
        raise DataError(
            f"{directory} has no manifest.json; build it with: python -m training corpus FILE... --out {directory}"
        )
    try:
        manifest: dict[str, object] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); build the corpus again") from None
    if "vocabulary_sha256" not in manifest:
        raise DataError(f"{path} has no vocabulary_sha256, expected the manifest of a corpus; build the corpus again")
    return manifest


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    vocabulary = "\n".join(tokenizer.token(i) for i in range(tokenizer.vocab_size))
    return hashlib.sha256(vocabulary.encode()).hexdigest()
