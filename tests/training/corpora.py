"""Small corpora for the tests of pretraining and finetuning."""

import json
from pathlib import Path

import numpy as np

from training.text.corpus import Corpus
from training.text.corpus_builder import build_corpus

FIXTURES = Path(__file__).parents[1] / "fixtures"
WORDS = "the cat dog man woman house city river runs eats sees is was in on with big small red old".split()


def write_documents(path: Path, documents: int, sentences: int, seed: int = 0) -> Path:
    """Write documents whose masks can be learned: each word of a sentence except the first follows from the one before.

    Each ends with the numbers of its document and sentence.
    """
    rng = np.random.default_rng(seed)
    with path.open("w", encoding="utf8") as file:
        for number in range(documents):
            text = " ".join(
                f"{' '.join(np.roll(WORDS, rng.integers(20))[: rng.integers(3, 9)])} {number} {line}.".capitalize()
                for line in range(sentences)
            )
            file.write(json.dumps({"title": None, "source": "test", "text": text}) + "\n")
    return path


def small_corpus(directory: Path, documents: int = 12, sentences: int = 10, held_out: float = 0.25) -> Path:
    """Build a corpus below `directory` in this process."""
    source = write_documents(directory / "documents.jsonl", documents, sentences)
    out = directory / "corpus"
    build_corpus([source], FIXTURES, out, held_out=held_out, limit=None, workers=1)
    return out


def build(source: Path, out: Path, workers: int = 1) -> Corpus:
    """Build the corpus of one file, nothing held out."""
    build_corpus([source], FIXTURES, out, held_out=0.0, limit=None, workers=workers)
    return Corpus(out)
