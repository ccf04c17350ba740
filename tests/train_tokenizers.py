"""Trains the small vocabularies of tests/families.py, and writes tests/fixtures/tokenizers.json.

    python -m tests.train_tokenizers TEXT.jsonl[.xz]...     # records with "text"

The file is kept, since each training run gives other pieces where several are equally frequent. It was trained on 4,000
lines of English Wikipedia and 1,500 made lines, which bring other languages and scripts.
"""

import json
import string
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

from tests.families import TRAINED
from training.text.documents import Documents

DOCUMENTS = 400
LINES = 4000
BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = list(string.ascii_letters + string.digits + string.punctuation)
SHARED: dict[str, Any] = {"vocab_size": 800, "show_progress": False}
WORDS = (
    "the of and to a in is was for on that with as by he she it at from his her are were an this which be had not but "
    "their has or one first two after who its new been also other when time during there into all may more years over "
    "only city world state most between where later such through under house water school church river war music film "
    "walking walked walker reading readers unhappy unhappily happiness nation national international nationality "
    "Angela Merkel Paris London Berlin Clara Miller Dublin Shanghai Google Reuters Monday March river's don't it's "
    "le la les des une été où garçon très château français cœur naïve straße über müller größe señor niño año 2026 "
    "1984 3.14 12,000 10% $5 e-mail state-of-the-art U.S. Mr. café résumé 今年 上海 公司 カタナ Привет мир ελλάδα 🙂"
).split()
ENDS = (".", ".", ".", "?", "!", ";", " …")


def made_lines(count: int = 1500) -> list[str]:
    """Return sentences of frequent and rare words, signs, numbers, and other scripts."""
    generator = np.random.default_rng(0)
    shares = 1 / (np.arange(len(WORDS)) + 5.0)
    written = []
    for _ in range(count):
        words = generator.choice(WORDS, generator.integers(4, 20), p=shares / shares.sum())
        text = " ".join(words.tolist()) + str(generator.choice(ENDS))
        written.append(text[:1].upper() + text[1:])
    return written


def given_lines(files: Sequence[Path]) -> Iterator[str]:
    """Yield lines of the first documents of each file."""
    for path in files:
        for document in islice(Documents([path]), DOCUMENTS):
            yield from filter(None, document.text.split("\n"))


def word_pieces(lines: Sequence[str]) -> list[str]:
    """Return the entries of vocab.txt."""
    backend = tokenizers.Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    uncased = [sign for sign in ALPHABET if sign == sign.lower()]
    trainer = WordPieceTrainer(special_tokens=BERT_SPECIALS, initial_alphabet=uncased, **SHARED)
    backend.train_from_iterator(lines, trainer)
    return sorted(vocabulary := backend.get_vocab(), key=vocabulary.__getitem__)


def byte_pairs(lines: Sequence[str]) -> dict[str, Any]:
    """Return vocab.json in the order of RoBERTa's, and the merges."""
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    backend.train_from_iterator(
        lines, BpeTrainer(special_tokens=first, initial_alphabet=ByteLevel.alphabet(), **SHARED)
    )
    model = json.loads(backend.to_str())["model"]
    return {"vocab": [*sorted(model["vocab"], key=model["vocab"].get), "<mask>"], "merges": model["merges"]}


def unigrams(lines: Sequence[str]) -> list[tuple[str, float]]:
    """Return pieces and their log probabilities, without special ones."""
    backend = tokenizers.Tokenizer(Unigram())
    backend.pre_tokenizer = Metaspace()
    trainer = UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], initial_alphabet=ALPHABET, **SHARED)
    backend.train_from_iterator(lines, trainer)
    return [(piece, score) for piece, score in json.loads(backend.to_str())["model"]["vocab"] if piece != "<unk>"]


def main(files: Sequence[Path]) -> None:
    lines = [*islice(given_lines(files), LINES), *made_lines()]
    parts = {"word_pieces": word_pieces(lines), "byte_pairs": byte_pairs(lines), "unigrams": unigrams(lines)}
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(part, ensure_ascii=False)}" for name, part in parts.items())
    TRAINED.write_text(f"{{\n{rows}\n}}\n", "utf8")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
