"""A corpus: documents as token ids on disk, which is what pretraining reads.

    python -m training corpus wikipedia.jsonl.xz books.txt more.parquet --tokenizer DIR --out CORPUS [--held-out 0.01]

A directory of three memory-mapped arrays (token ids, the first token of each sentence, the first sentence of each
document) for each of its two parts, train and validation, the tokenizer they were cut by, and a manifest.
training/text/corpus_builder.py makes it.
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
    """What a part of a corpus holds."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0
    """Tokens that are [UNK]."""
    characters: int = 0
    """Without blanks."""
    unknown_characters: int = 0
    """Those of them that are inside a token [UNK]."""
    single: int = 0
    """Documents of one sentence, which next-sentence pairs cannot use."""
    repeated: int = 0
    """Documents that were held out, and removed because the training part has them too."""
    duplicates: int = 0
    """Documents that equal an earlier one of the part, blanks apart."""

    @property
    def unknown_share(self) -> float:
        """Of the tokens."""
        return self.unknown / max(1, self.tokens)

    @property
    def unknown_character_share(self) -> float:
        """Of the characters."""
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

    @property
    def has_pairs(self) -> bool:
        """Whether any document has two sentences."""
        return bool((np.diff(self.documents) > 1).any())

    def token_counts(self, vocab_size: int) -> NDArray[np.int64]:
        """Return how often each of `vocab_size` ids occurs, a block of the tokens in memory at a time."""
        counts = np.zeros(vocab_size, np.int64)
        for start in range(0, len(self.tokens), BLOCK):
            counts += np.bincount(self.tokens[start : start + BLOCK], minlength=vocab_size)
        return counts

    def check_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Raise DataError if the ids are those of another vocabulary: they would be read as other words, unnoticed."""
        mine, theirs = str(self.manifest["vocabulary_sha256"]), vocabulary_hash(tokenizer)
        if mine != theirs:
            raise DataError(
                f"{self.directory} was cut by vocabulary {mine[:12]}…, expected {theirs[:12]}… as the checkpoint has; "
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
    """Read manifest.json; raise DataError where `directory` holds no finished corpus."""
    path = directory / "manifest.json"
    if not path.exists():
        raise DataError(
            f"{directory} holds no manifest.json; build it with: python -m training corpus FILE... --out {directory}"
        )
    try:
        manifest: dict[str, object] = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); build the corpus again") from None
    if "vocabulary_sha256" not in manifest:
        raise DataError(f"{path} names no vocabulary_sha256, which that of a corpus does; build the corpus again")
    return manifest


def vocabulary_hash(tokenizer: Tokenizer) -> str:
    vocabulary = "\n".join(tokenizer.token(i) for i in range(tokenizer.vocab_size))
    return hashlib.sha256(vocabulary.encode()).hexdigest()
