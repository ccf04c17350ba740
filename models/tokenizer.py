"""The tokenizer: text → pieces with character offsets, for WordPiece, byte-level BPE and Unigram.

It is built on the `tokenizers` library. Only this file adds special tokens; user text cannot inject them: "[CLS]" in a
text becomes "[", "cl", "##s" and "]". The one exception is the mask, and only in `ids_with_masks`.
"""

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import tokenizers
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.processors import TemplateProcessing

from models import byte_level, unigram
from models.errors import CheckpointError, InputError
from models.pieces import BLANKS, NO_WORD, is_blank, of_blanks, of_words, trim
from models.pieces import Pieces as Pieces
from models.row import Row
from models.special_tokens import BRACKETED, OF_BERT, Parts, read_rows, token_id
from models.special_tokens import MASK as MASK
from models.tokenizer_files import TokenizerFiles, parse_file
from models.wordpiece_cache import Memory, Words, pack, split_words, unpack, unpack_ids

# Any other normalizer or pre-tokenizer would silently split text differently from the checkpoint's training.
WORD_PIECE = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
SPECIALS = BRACKETED
"""Special tokens of BERT, by their keys in tokenizer_config.json."""
KINDS = ("WordPiece", "BPE", "Unigram")
# NUL ends strings in too many other programs; a lone surrogate is half a character, which UTF-8 cannot encode.
UNUSABLE = re.compile("[\0\ud800-\udfff]")
KNOWN = 1_000_000
"""Size of the cache of words, in characters as counted by models.wordpiece_cache.Memory: about 11 MB."""
LONG = 2000
"""Texts with more characters (about 0.5 ms) are tokenized as a batch, because only this releases the GIL."""
MAX_REMEMBERED = 8_000
"""Texts up to this many characters use the cache of words, which takes 0.5 ms without releasing the GIL."""
FEW = 16
"""Up to this many texts or sequences are processed without threads, to leave the cores to the lanes."""


class Tokenizer:
    """A vocabulary, and the rules that split text into its entries."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: str, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        """Sentences about decisions that the files left open."""
        backend.no_padding()
        backend.no_truncation()
        parts: Parts = json.loads(backend.to_str())
        self.kind = _kind(parts, origin)
        """The model of the `tokenizers` library, one of KINDS."""
        self.layout, self.specials = OF_BERT, SPECIALS
        """The layout of two texts in a row, and the special tokens by their keys in tokenizer_config.json."""
        if self.kind != "WordPiece":
            self.layout, self.specials = read_rows(parts["post_processor"], origin)
        ids = {token: token_id(backend, token, origin) for token in self.specials.values()}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids.values()
        self.special_ids = set(ids.values())
        self._added = _mark_special(parts["added_tokens"], ids)
        self._mask = _mask_pattern(self.specials["mask_token"], self._added)
        self._backend, self._hidden = self._prepare(backend, parts, origin)
        self.vocab_size = _vocab_size(parts)
        """The highest id plus one; some ids may have no token, if vocab.txt repeats a line."""
        self._known = Memory(partial(_pack, self._backend), split_words, KNOWN)
        self._divides = self.kind == "WordPiece" and not _added_words(self._backend)
        """Whether the text between blanks and ASCII punctuation is always split the same way, so it can be cached."""
        self._rules: dict[str, Any] = parts["normalizer"] or {}
        self.lowercase = _lowercases(self._backend)

    def _prepare(
        self, backend: tokenizers.Tokenizer, parts: Parts, origin: str
    ) -> tuple[tokenizers.Tokenizer, set[int]]:
        """Prevent text from injecting special tokens, and set the decoder; return also the ids that were renamed."""
        hidden = set[int]()
        if self.kind == "Unigram":
            backend, hidden = unigram.hide(backend, parts, self.specials.values(), origin)
            unigram.set_decoder(backend, parts)
        else:
            # Some files list them as ordinary added tokens, which user text could still inject.
            backend.add_special_tokens([_added_token(token) for token in self._added if token["special"]])
            is_bpe = self.kind == "BPE"
            backend.decoder = byte_level.decoder() if is_bpe else WordPieceDecoder(prefix="##", cleanup=True)
        backend.encode_special_tokens = True
        return backend, hidden

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tokenizer.json, or a directory with one or with the older files of transformers.

        Raise CheckpointError, which names the file, the value and the remedy.
        """
        if path.is_dir() and (path / "tokenizer.json").exists():
            path = path / "tokenizer.json"
        if path.is_dir():
            files = TokenizerFiles(path)
            return cls(files.from_vocabulary(), str(path / files.vocabulary), files.notes)
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; pass a directory with tokenizer.json or vocab.txt")
        files = TokenizerFiles(path.parent)
        return cls(files.from_file(path), str(path), files.notes)

    @classmethod
    def parse(cls, contents: bytes, path: Path) -> Self:
        """Read the contents of a tokenizer.json and no other files; raise CheckpointError, which names `path`."""
        return cls(parse_file(contents, path), str(path))

    def write(self, directory: Path, max_length: int = 512) -> None:
        """Write tokenizer.json and tokenizer_config.json (and vocab.txt for WordPiece), in transformers' format.

        `max_length`: maximum tokens of a row, to which transformers truncates if it is asked to.
        """
        directory.mkdir(parents=True, exist_ok=True)
        settings = self._write_words(directory) if self.kind == "WordPiece" else self._write_other(directory)
        config = self.specials | settings | {"model_max_length": max_length}
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")

    def _write_words(self, directory: Path) -> dict[str, Any]:
        """Write the files of a BERT tokenizer; return its settings."""
        self._backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf8")
        last = self.token(self.vocab_size - 1)  # fills lines of ids without a token, as the last line counts
        tokens = [self.token(i) or last for i in range(self.vocab_size)]
        (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf8")
        return {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self._rules["strip_accents"],
            "tokenize_chinese_chars": self._rules["handle_chinese_chars"],
        }

    def _write_other(self, directory: Path) -> dict[str, Any]:
        """Write a complete tokenizer.json; return settings with a class that uses only this file."""
        is_unigram = self.kind == "Unigram"
        text = unigram.show(self._backend, self._added) if is_unigram else self._backend.to_str(pretty=True)
        (directory / "tokenizer.json").write_text(text, encoding="utf8")
        names = ["input_ids", *(["token_type_ids"] if self.layout.segment else []), "attention_mask"]
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_input_names": names,
            "clean_up_tokenization_spaces": False,
        }

    def encode(self, text: str, field: str = "inputs") -> Pieces:
        """Split a text into pieces.

        Raises InputError for `field` if it contains NUL or a lone surrogate, or has no visible character.
        """
        _check_characters(text, field)
        pieces = self._encode_known(text) if self._is_fast([text]) else self.encode_batch([text])[0]
        _check_visible(bool((pieces.words != NO_WORD).any()), text, field)
        return pieces

    def ids(self, text: str, field: str = "inputs") -> list[int]:
        """Return only the ids of the pieces; for known words this takes a fifth of the time. Raises like `encode`."""
        _check_characters(text, field)
        (found,) = self._ids([text])
        _check_visible(found and not is_blank(text), text, field)
        return found

    def ids_with_masks(self, text: str, field: str = "inputs") -> list[int]:
        """Return the ids of a text, which may be empty; each mask in it becomes the mask token.

        A mask is [MASK], or its name in this vocabulary; blanks beside it belong to it if the files say so.
        """
        _check_characters(text, field)
        joined: list[int] = []
        for ids in self._ids(self._mask.split(text)):
            joined += [self.mask_id, *ids]
        return joined[1:]

    def encode_words(self, words: Sequence[str], field: str = "inputs") -> Pieces:
        """Split given words into pieces; offsets count characters in the words joined by single spaces.

        Each word is split as after a space, and has at least one piece: a word that the rules would drop (such as a
        control character) becomes the unknown token.
        """
        for number, word in enumerate(words):
            _check_characters(word, f"{field}[{number}]")
        spaced = [byte_level.spaced(word) if self.kind == "BPE" else self._kept(word) for word in words]
        ids, offsets, numbers = [], [], []
        start = 0
        for number, (word, cut, encoding) in enumerate(zip(words, spaced, self._encode_batch(spaced), strict=True)):
            left = start + len(word) - len(cut)  # where `cut` begins: a space was added, or characters were removed
            spans = trim(cut, encoding.offsets) or [(start - left, start - left + len(word))]  # the whole word
            ids += encoding.ids or [self.unk_id]
            offsets += [(max(left + first, start), left + last) for first, last in spans]
            numbers += [number] * len(spans)
            start += len(word) + 1
        return Pieces.of(ids, offsets, numbers)

    def encode_batch(self, texts: Sequence[str]) -> list[Pieces]:
        """Split texts into pieces, many of them on all cores; a text may be empty."""
        read = of_words if self.kind == "WordPiece" else of_blanks
        kept = [self._kept(text) for text in texts]
        pieces = [read(text, encoding) for text, encoding in zip(kept, self._encode_batch(kept), strict=True)]
        return [one.behind(len(text) - len(cut)) for one, text, cut in zip(pieces, texts, kept, strict=True)]

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return only the ids of texts, many of them on all cores; computing offsets too would take twice as long."""
        return _encode_ids(self._backend, texts)

    def words(self, most: int) -> Words:
        """Return a cache of words that returns the ids of texts; `most` is its maximum size, see Memory."""
        cut = partial(_encode_ids, self._backend)  # a bound method would make a reference cycle and keep the memory
        return Words(cut, split_words if self._divides else (lambda text: [text]), most)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Join tokens to text as transformers does: "##" and the space before punctuation are removed."""
        (text,) = self.decode_batch([ids], skip_special_tokens)
        return text

    def decode_batch(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Join tokens to text for several sequences, many of them on all cores."""
        hidden = self._hidden if skip_special_tokens else ()
        batch = [[i for i in ids if i not in hidden] if hidden else list(ids) for ids in sequences]
        if len(batch) <= FEW:
            texts = [self._backend.decode(ids, skip_special_tokens=skip_special_tokens) for ids in batch]
        else:
            texts = self._backend.decode_batch(batch, skip_special_tokens=skip_special_tokens)
        return [text.replace(unigram.HIDDEN, "") for text in texts] if self._hidden else texts

    def token_id(self, token: str) -> int | None:
        """Return the id of a token that is exactly in the vocabulary, or None."""
        if UNUSABLE.search(token):
            return None
        found: int | None = self._backend.token_to_id(token)
        return self._backend.token_to_id(unigram.HIDDEN + token) if found is None else found

    def token(self, token_id: int) -> str:
        """Return the token of an id, "##" included; an empty string for an id without a token."""
        return (self._backend.id_to_token(token_id) or "").removeprefix(unigram.HIDDEN)

    def continues(self, token_id: int) -> bool:
        """Whether a token continues a word (as "##ing"); special tokens do not."""
        token = self.token(token_id)
        if token_id in self.special_ids or self.kind == "WordPiece":
            return token.startswith("##")
        return byte_level.continues(token) if self.kind == "BPE" else unigram.continues(token)

    def single_row(self, ids: list[int], positions: list[int]) -> Row:
        """Return the row [CLS] a [SEP], or its equivalent; `positions` are the columns that the head reads."""
        input_ids = [self.cls_id, *ids, self.sep_id]
        return Row(input_ids, [0] * len(input_ids), positions)

    def pair_row(self, first: list[int], second: list[int], positions: list[int]) -> Row:
        """Return the row [CLS] a [SEP] b [SEP] with segment 1 from b on, or its equivalent in this layout."""
        input_ids = [self.cls_id, *first, *[self.sep_id] * self.layout.separators, *second, self.sep_id]
        before = self.second_column(len(first))
        return Row(input_ids, [0] * before + [self.layout.segment] * (len(input_ids) - before), positions)

    def second_column(self, first: int) -> int:
        """Return the column at which the second text of a pair begins, if the first text has `first` tokens."""
        return 1 + first + self.layout.separators

    def _kept(self, text: str) -> str:
        """Return a text without the leading characters that the rules remove."""
        return unigram.without_removed(text, self._backend.normalizer) if self.kind == "Unigram" else text

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(unpack_ids, self._known.find(texts))) if self._is_fast(texts) else self.encode_ids(texts)

    def _encode_known(self, text: str) -> Pieces:
        (known,) = self._known.find([text])
        return unpack(text, known)

    def _is_fast(self, texts: Sequence[str]) -> bool:
        """Whether to use the cache of words; new words in long texts would block other threads."""
        return self._divides and _characters(texts) <= MAX_REMEMBERED

    def _encode_batch(self, texts: Sequence[str]) -> list[tokenizers.Encoding]:
        return _encode_batch(self._backend, texts)


def _encode_batch(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[tokenizers.Encoding]:
    if _are_light(texts):
        return [backend.encode(text, add_special_tokens=False) for text in texts]
    return list(backend.encode_batch(list(texts), add_special_tokens=False))


def _pack(backend: tokenizers.Tokenizer, words: Sequence[str]) -> list[bytes]:
    (encoding,) = _encode_batch(backend, [" ".join(words)])
    return pack(encoding, words)


def _encode_ids(backend: tokenizers.Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    if _are_light(texts):
        return [encoding.ids for encoding in _encode_batch(backend, texts)]
    return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]


def _characters(texts: Sequence[str]) -> int:
    return sum(map(len, texts))


def _are_light(texts: Sequence[str]) -> bool:
    return len(texts) <= FEW and _characters(texts) <= LONG


def _check_characters(text: str, field: str) -> None:
    if text.isascii() and "\0" not in text:  # the usual case; ten times as fast as the search
        return
    found = UNUSABLE.search(text)
    if found:
        raise InputError(
            field,
            f"character {found.start()} is U+{ord(found.group()):04X}, which no text can hold; remove it "
            "(a lone surrogate is one half of a character that was cut in two)",
        )


def _check_visible(visible: object, text: str, field: str) -> None:
    if not visible:
        raise InputError(field, f"{text[:40]!r} has no visible character; pass a text of at least one word")


def _kind(parts: Parts, origin: str) -> str:
    """Return the kind of a tokenizer; raise CheckpointError if its rules are not those of a supported class."""
    kind: str = parts["model"]["type"]
    if kind == "BPE":
        byte_level.check(parts, origin)
    elif kind == "Unigram":
        unigram.check(parts, origin)
    elif kind == "WordPiece":
        _check_word_piece(parts, origin)
    else:
        raise CheckpointError(f"{origin}: model is {kind}, expected one of {', '.join(KINDS)}; pass such a tokenizer")
    return kind


def _check_word_piece(parts: Parts, origin: str) -> None:
    for part, expected in WORD_PIECE.items():
        found = (parts[part] or {}).get("type")
        if found != expected:
            raise CheckpointError(f"{origin}: {part} is {found}, expected {expected}; pass a tokenizer of BERT")


def _vocab_size(parts: Parts) -> int:
    entries = parts["model"]["vocab"]
    ids = range(len(entries)) if isinstance(entries, list) else entries.values()
    highest: int = max((*ids, *(token["id"] for token in parts["added_tokens"])))
    return highest + 1


def _mark_special(added: list[dict[str, Any]], ids: dict[str, int]) -> list[dict[str, Any]]:
    """Return the added tokens, with the tokens of `ids` included and marked as special."""
    missing = [token for token in ids if all(other["content"] != token for other in added)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    every = [*added, *({"id": ids[token], "content": token, **flags} for token in missing)]
    return [token | {"special": token.get("special", True) or token["content"] in ids} for token in every]


def _added_words(backend: tokenizers.Tokenizer) -> list[tokenizers.AddedToken]:
    """Return the added tokens that are not special; they may contain blanks and punctuation."""
    return [token for token in backend.get_added_tokens_decoder().values() if not token.special]


def _added_token(token: dict[str, Any]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(**{key: value for key, value in token.items() if key != "id"})


def _mask_pattern(mask: str, added: Sequence[dict[str, Any]]) -> re.Pattern[str]:
    """Return the pattern that splits a text at its masks."""
    sides = next((token for token in added if token["content"] == mask), {})
    left, right = (f"[{BLANKS}]*" if sides.get(side) else "" for side in ("lstrip", "rstrip"))
    return re.compile(f"{left}(?:{re.escape(mask)}|{re.escape(MASK)}){right}")


def _lowercases(backend: tokenizers.Tokenizer) -> bool:
    return backend.normalizer is not None and bool(backend.normalizer.normalize_str("A") == "a")
