"""WordPiece as BERT has it: text → pieces with character offsets, over the `tokenizers` library.

Special tokens are added here and nowhere else, so that text never makes one: "[CLS]" in a text is "[", "cl", "##s" and
"]". The one exception is asked for by name: `ids_with_masks`.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.processors import TemplateProcessing

from models.errors import CheckpointError, InputError
from models.row import Row
from models.tokenizer_files import MASK as MASK
from models.tokenizer_files import SPECIALS as SPECIALS
from models.tokenizer_files import TokenizerFiles, parse_file
from models.words import Words, split_words

# Another model, normalizer or pre-tokenizer would cut text otherwise than the checkpoint was trained with, unnoticed.
PARTS = {"model": "WordPiece", "normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
# NUL ends strings in too many places to be let in; a lone surrogate is half a character, which UTF-8 cannot hold.
UNUSABLE = re.compile("[\0\ud800-\udfff]")
KNOWN = 400_000  # size of the words whose ids are remembered: 5 to 8 MB
LONG = 2000  # characters of texts, some 0.5 ms, beyond which they are cut as a batch: only then may other threads run
FEW = 16  # texts or sequences that are not worth waking threads for, whose cores lanes are to have


@dataclass(frozen=True, slots=True)
class Pieces:
    """The WordPiece tokens of one text, without special tokens."""

    ids: list[int]
    offsets: list[tuple[int, int]]
    """Start and end of each piece in characters of the original text."""
    words: list[int]
    """For each piece, the number of its word: as the pre-tokenizer splits, or as given to `encode_words`."""

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """A BERT vocabulary and the rules that cut text into it."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: str, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        """Sentences on what was decided when the files were read."""
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        ids = {token: _special_id(backend, token, origin) for token in SPECIALS.values()}
        # Some files carry them as ordinary added tokens, which would still be cut out of a user's text.
        backend.add_special_tokens(list(ids))
        backend.encode_special_tokens = True
        backend.decoder = WordPieceDecoder(prefix="##", cleanup=True)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids.values()
        self.special_ids = set(ids.values())
        self.vocab_size: int = max(backend.get_vocab().values()) + 1
        """The highest id and one more: a repeated line of vocab.txt leaves a number without a token."""
        self._words = self.words(KNOWN)
        self._rules = _bert_normalizer(backend, origin)
        self.lowercase: bool = self._rules["lowercase"]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tokenizer.json, or a directory with one or with vocab.txt; raise CheckpointError naming the file."""
        if path.is_dir() and (path / "tokenizer.json").exists():
            path = path / "tokenizer.json"
        if path.is_dir():
            files = TokenizerFiles(path)
            return cls(files.from_vocabulary(), str(path / "vocab.txt"), files.notes)
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; pass a directory with tokenizer.json or vocab.txt")
        files = TokenizerFiles(path.parent)
        return cls(files.from_file(path), str(path), files.notes)

    @classmethod
    def parse(cls, contents: bytes, path: Path) -> Self:
        """Read the contents of a tokenizer.json, whatever lies beside it; raise CheckpointError naming `path`."""
        return cls(parse_file(contents, path), str(path))

    def write(self, directory: Path, max_length: int = 512) -> None:
        """Write tokenizer.json, vocab.txt and tokenizer_config.json, as transformers reads them.

        `max_length`: tokens that the encoder takes, to which transformers cuts where it is asked to cut.
        """
        self._backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf8")
        last = self.token(self.vocab_size - 1)  # stands once more in place of ids without a token: the last line counts
        tokens = [self.token(i) or last for i in range(self.vocab_size)]
        (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf8")
        config = SPECIALS | {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self._rules["strip_accents"],
            "tokenize_chinese_chars": self._rules["handle_chinese_chars"],
            "model_max_length": max_length,
        }
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")

    def encode(self, text: str, field: str = "inputs") -> Pieces:
        """Cut a text into pieces; raise InputError for `field` if it holds NUL or a lone surrogate, or has no piece."""
        pieces = self._encode(text, field)
        _check_visible(pieces.ids, text, field)
        return pieces

    def ids(self, text: str, field: str = "inputs") -> list[int]:
        """Return only the ids of the pieces: a fifth of the work if the words were met before; raise as `encode`."""
        _check_characters(text, field)
        (found,) = self._ids([text])
        _check_visible(found, text, field)
        return found

    def ids_with_masks(self, text: str, field: str = "inputs") -> list[int]:
        """The same of a text that may be empty, in which each literal [MASK] becomes the mask token."""
        _check_characters(text, field)
        joined: list[int] = []
        for ids in self._ids(text.split(MASK)):
            joined += [self.mask_id, *ids]
        return joined[1:]

    def encode_words(self, words: Sequence[str], field: str = "inputs") -> Pieces:
        """Cut given words into pieces; offsets count in the words joined by one space.

        Each word keeps at least one piece: what the rules would drop (a lone control character) becomes [UNK].
        """
        for number, word in enumerate(words):
            _check_characters(word, f"{field}[{number}]")
        ids, offsets, numbers = [], [], []
        start = 0
        for number, (word, encoding) in enumerate(zip(words, self._encode_batch(words), strict=True)):
            spans = _cover_marks(word, encoding.offsets) or [(0, len(word))]
            ids += encoding.ids or [self.unk_id]
            offsets += [(left + start, right + start) for left, right in spans]
            numbers += [number] * len(spans)
            start += len(word) + 1
        return Pieces(ids, offsets, numbers)

    def encode_batch(self, texts: Sequence[str]) -> list[Pieces]:
        """Cut many texts on all cores; a text may be empty."""
        return [_pieces(text, encoding) for text, encoding in zip(texts, self._encode_batch(texts), strict=True)]

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Only the ids of texts, of many on all cores: for corpora, where offsets would cost more than the rest."""
        return _encode_ids(self._backend, texts)

    def words(self, most: int) -> Words:
        """Return what gives the ids of running text by its words, of which a size of `most` is remembered.

        Tokens that were added to the vocabulary are found across blanks and punctuation: then a "word" is a whole text.
        """
        added = [token for token in self._backend.get_added_tokens_decoder().values() if not token.special]
        cut = partial(_encode_ids, self._backend)  # a method would hold this object in a cycle, and its memory with it
        return Words(cut, (lambda text: [text]) if added else split_words, most)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Join tokens to text as transformers does: "##" and the blank before punctuation go."""
        return str(self._backend.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def decode_batch(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Decode sequences, many of them on all cores."""
        if len(sequences) <= FEW:
            return [self.decode(ids, skip_special_tokens) for ids in sequences]
        batch = [list(ids) for ids in sequences]
        return list(self._backend.decode_batch(batch, skip_special_tokens=skip_special_tokens))

    def token_id(self, token: str) -> int | None:
        """Return the id of a token exactly as the vocabulary has it, or None."""
        found: int | None = self._backend.token_to_id(token)
        return found

    def token(self, token_id: int) -> str:
        """Return the token of an id, "##" included; nothing for a number without a token."""
        return self._backend.id_to_token(token_id) or ""

    def single_row(self, ids: list[int], positions: list[int]) -> Row:
        """[CLS] a [SEP]."""
        input_ids = [self.cls_id, *ids, self.sep_id]
        return Row(input_ids, [0] * len(input_ids), positions)

    def pair_row(self, first: list[int], second: list[int], positions: list[int]) -> Row:
        """[CLS] a [SEP] b [SEP], segment 1 from b on."""
        input_ids = [self.cls_id, *first, self.sep_id, *second, self.sep_id]
        return Row(input_ids, [0] * (len(first) + 2) + [1] * (len(second) + 1), positions)

    def _encode(self, text: str, field: str) -> Pieces:
        _check_characters(text, field)
        (encoding,) = self._encode_batch([text])
        return _pieces(text, encoding)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return self._words.encode(texts) if _characters(texts) <= LONG else self.encode_ids(texts)

    def _encode_batch(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        return _encode_batch(self._backend, texts)


def _encode_batch(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    if _are_light(texts):
        return [backend.encode(text, add_special_tokens=False) for text in texts]
    return list(backend.encode_batch(list(texts), add_special_tokens=False))


def _encode_ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    if _are_light(texts):
        return [encoding.ids for encoding in _encode_batch(backend, texts)]
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _characters(texts: Sequence[str]) -> int:
    return sum(map(len, texts))


def _are_light(texts: Sequence[str]) -> bool:
    return len(texts) <= FEW and _characters(texts) <= LONG


def _check_characters(text: str, field: str) -> None:
    found = UNUSABLE.search(text)
    if found:
        raise InputError(
            field,
            f"character {found.start()} is U+{ord(found.group()):04X}, which no text can hold; remove it "
            "(a lone surrogate is one half of a character that was cut in two)",
        )


def _check_visible(ids: list[int], text: str, field: str) -> None:
    if not ids:
        raise InputError(field, f"{text[:40]!r} has no visible character; pass a text of at least one word")


def _pieces(text: str, encoding: tokenizers.Encoding) -> Pieces:
    words = [
        word for word in encoding.word_ids if word is not None
    ]  # None would be a special token, of which none is made
    return Pieces(encoding.ids, _cover_marks(text, encoding.offsets), words)


def _cover_marks(text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extend pieces over combining marks that lowercasing stripped behind them.

    The library ends the piece of "e" + U+0301 at the "e"; a span that ends there would cut the letter in two.
    """
    if text.isascii() or not offsets:
        return offsets
    limits = [*(start for start, _ in offsets[1:]), len(text)]
    return [(start, _end_of_marks(text, end, limit)) for (start, end), limit in zip(offsets, limits, strict=True)]


def _end_of_marks(text: str, end: int, limit: int) -> int:
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end


def _special_id(backend: tokenizers.Tokenizer, token: str, origin: str) -> int:
    found: int | None = backend.token_to_id(token)
    if found is None:
        expected = ", ".join(SPECIALS.values())
        raise CheckpointError(f"{origin} has no token {token}, expected all of {expected}; pass BERT's vocabulary")
    return found


def _bert_normalizer(backend: tokenizers.Tokenizer, origin: str) -> dict[str, Any]:
    """Return the normalizer's settings, after a check that the file cuts text as BERT does."""
    rules = json.loads(backend.to_str())
    for part, expected in PARTS.items():
        found = (rules[part] or {}).get("type")
        if found != expected:
            raise CheckpointError(f"{origin}: {part} is {found}, expected {expected}; pass a tokenizer of BERT")
    normalizer: dict[str, Any] = rules["normalizer"]
    return normalizer
