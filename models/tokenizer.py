"""Text → pieces with character offsets, over the `tokenizers` library: WordPiece, byte-level BPE and Unigram.

Special tokens are added here and nowhere else, so that text never makes one: "[CLS]" in a text is "[", "cl", "##s" and
"]". The one exception is asked for by name: `ids_with_masks`.
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

# Another normalizer or pre-tokenizer would cut text otherwise than the checkpoint was trained with, unnoticed.
WORD_PIECE = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
SPECIALS = BRACKETED
"""Of BERT."""
KINDS = ("WordPiece", "BPE", "Unigram")
# NUL ends strings in too many places to be let in; a lone surrogate is half a character, which UTF-8 cannot hold.
UNUSABLE = re.compile("[\0\ud800-\udfff]")
KNOWN = 1_000_000  # size of the words whose pieces are remembered: some 11 MB
LONG = 2000  # characters of texts, some 0.5 ms, beyond which they are cut as a batch: only then may other threads run
MAX_REMEMBERED = 8_000  # characters of texts that are read word by word: 0.5 ms in which no other thread runs
FEW = 16  # texts or sequences that are not worth waking threads for, whose cores lanes are to have


class Tokenizer:
    """A vocabulary and the rules that cut text into it."""

    def __init__(self, backend: tokenizers.Tokenizer, origin: str, notes: Sequence[str] = ()) -> None:
        self.notes = tuple(notes)
        """Sentences on what was decided when the files were read."""
        backend.no_padding()
        backend.no_truncation()
        parts: Parts = json.loads(backend.to_str())
        self.kind = _kind(parts, origin)
        """The model of the `tokenizers` library, one of KINDS."""
        self.layout, self.specials = OF_BERT, SPECIALS
        """How two texts stand in a row, and the names of the special tokens by the keys of tokenizer_config.json."""
        if self.kind != "WordPiece":
            self.layout, self.specials = read_rows(parts["post_processor"], origin)
        ids = {token: token_id(backend, token, origin) for token in self.specials.values()}
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids.values()
        self.special_ids = set(ids.values())
        self._added = _mark_special(parts["added_tokens"], ids)
        self._mask = _mask_pattern(self.specials["mask_token"], self._added)
        self._backend, self._hidden = self._prepare(backend, parts, origin)
        self.vocab_size = _vocab_size(parts)
        """The highest id and one more: a repeated line of vocab.txt leaves a number without a token."""
        self._known = Memory(partial(_pack, self._backend), split_words, KNOWN)
        self._divides = self.kind == "WordPiece" and not _added_words(self._backend)
        """Whether what stands between blanks and ASCII punctuation is cut the same wherever it stands."""
        self._rules: dict[str, Any] = parts["normalizer"] or {}
        self.lowercase = _lowercases(self._backend)

    def _prepare(
        self, backend: tokenizers.Tokenizer, parts: Parts, origin: str
    ) -> tuple[tokenizers.Tokenizer, set[int]]:
        """Keep special tokens out of text, and choose what joins pieces to text; return ids that have other names."""
        hidden = set[int]()
        if self.kind == "Unigram":
            backend, hidden = unigram.hide(backend, parts, self.specials.values(), origin)
            unigram.set_decoder(backend, parts)
        else:
            # Some files carry them as ordinary added tokens, which would still be cut out of a user's text.
            backend.add_special_tokens([_added_token(token) for token in self._added if token["special"]])
            is_bpe = self.kind == "BPE"
            backend.decoder = byte_level.decoder() if is_bpe else WordPieceDecoder(prefix="##", cleanup=True)
        backend.encode_special_tokens = True
        return backend, hidden

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a tokenizer.json, or a directory with one or with the files that transformers had before it.

        Raise CheckpointError naming the file, the value and the remedy.
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
        """Read the contents of a tokenizer.json, whatever lies beside it; raise CheckpointError naming `path`."""
        return cls(parse_file(contents, path), str(path))

    def write(self, directory: Path, max_length: int = 512) -> None:
        """Write tokenizer.json and tokenizer_config.json, for WordPiece vocab.txt too, as transformers reads them.

        `max_length`: tokens that the encoder takes, to which transformers cuts where it is asked to cut.
        """
        directory.mkdir(parents=True, exist_ok=True)
        settings = self._write_words(directory) if self.kind == "WordPiece" else self._write_other(directory)
        config = self.specials | settings | {"model_max_length": max_length}
        (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")

    def _write_words(self, directory: Path) -> dict[str, Any]:
        """Write the files of BERT; return its settings."""
        self._backend.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", self.cls_id), ("[SEP]", self.sep_id)],
        )
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True), encoding="utf8")
        last = self.token(self.vocab_size - 1)  # stands once more in place of ids without a token: the last line counts
        tokens = [self.token(i) or last for i in range(self.vocab_size)]
        (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf8")
        return {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.lowercase,
            "strip_accents": self._rules["strip_accents"],
            "tokenize_chinese_chars": self._rules["handle_chinese_chars"],
        }

    def _write_other(self, directory: Path) -> dict[str, Any]:
        """Write a file that says everything, and settings with a class that goes by that file alone."""
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
        """Cut a text into pieces; raise InputError for `field` if it holds NUL or a lone surrogate, or has no piece."""
        _check_characters(text, field)
        pieces = self._encode_known(text) if self._is_fast([text]) else self.encode_batch([text])[0]
        _check_visible(bool((pieces.words != NO_WORD).any()), text, field)
        return pieces

    def ids(self, text: str, field: str = "inputs") -> list[int]:
        """Return only the ids of the pieces: a fifth of the work if the words were met before; raise as `encode`."""
        _check_characters(text, field)
        (found,) = self._ids([text])
        _check_visible(found and not is_blank(text), text, field)
        return found

    def ids_with_masks(self, text: str, field: str = "inputs") -> list[int]:
        """The same of a text that may be empty, in which each literal mask becomes the mask token.

        A mask is [MASK], or what this vocabulary calls it; blanks beside it belong to it where the files say so.
        """
        _check_characters(text, field)
        joined: list[int] = []
        for ids in self._ids(self._mask.split(text)):
            joined += [self.mask_id, *ids]
        return joined[1:]

    def encode_words(self, words: Sequence[str], field: str = "inputs") -> Pieces:
        """Cut given words into pieces; offsets count in the words joined by one space.

        Each word is cut as behind a blank, and keeps at least one piece: what the rules would drop (a lone control
        character) becomes the unknown token.
        """
        for number, word in enumerate(words):
            _check_characters(word, f"{field}[{number}]")
        spaced = [byte_level.spaced(word) if self.kind == "BPE" else self._kept(word) for word in words]
        ids, offsets, numbers = [], [], []
        start = 0
        for number, (word, cut, encoding) in enumerate(zip(words, spaced, self._encode_batch(spaced), strict=True)):
            left = start + len(word) - len(cut)  # where `cut` begins: a blank was added, or characters were removed
            spans = trim(cut, encoding.offsets) or [(0, len(word))]
            ids += encoding.ids or [self.unk_id]
            offsets += [(max(left + first, start), left + last) for first, last in spans]
            numbers += [number] * len(spans)
            start += len(word) + 1
        return Pieces.of(ids, offsets, numbers)

    def encode_batch(self, texts: Sequence[str]) -> list[Pieces]:
        """Cut many texts on all cores; a text may be empty."""
        read = of_words if self.kind == "WordPiece" else of_blanks
        kept = [self._kept(text) for text in texts]
        pieces = [read(text, encoding) for text, encoding in zip(kept, self._encode_batch(kept), strict=True)]
        return [one.behind(len(text) - len(cut)) for one, text, cut in zip(pieces, texts, kept, strict=True)]

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Only the ids of texts, of many on all cores: for corpora, where offsets would cost more than the rest."""
        return _encode_ids(self._backend, texts)

    def words(self, most: int) -> Words:
        """Return what gives the ids of running text by its words, of which a size of `most` is remembered."""
        cut = partial(_encode_ids, self._backend)  # a method would hold this object in a cycle, and its memory with it
        return Words(cut, split_words if self._divides else (lambda text: [text]), most)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Join tokens to text as transformers does: "##" and the blank before punctuation go."""
        (text,) = self.decode_batch([ids], skip_special_tokens)
        return text

    def decode_batch(self, sequences: Sequence[Sequence[int]], skip_special_tokens: bool = False) -> list[str]:
        """Decode sequences, many of them on all cores."""
        hidden = self._hidden if skip_special_tokens else ()
        batch = [[i for i in ids if i not in hidden] if hidden else list(ids) for ids in sequences]
        if len(batch) <= FEW:
            texts = [self._backend.decode(ids, skip_special_tokens=skip_special_tokens) for ids in batch]
        else:
            texts = self._backend.decode_batch(batch, skip_special_tokens=skip_special_tokens)
        return [text.replace(unigram.HIDDEN, "") for text in texts] if self._hidden else texts

    def token_id(self, token: str) -> int | None:
        """Return the id of a token exactly as the vocabulary has it, or None."""
        if UNUSABLE.search(token):
            return None
        found: int | None = self._backend.token_to_id(token)
        return self._backend.token_to_id(unigram.HIDDEN + token) if found is None else found

    def token(self, token_id: int) -> str:
        """Return the token of an id, "##" included; nothing for a number without a token."""
        return (self._backend.id_to_token(token_id) or "").removeprefix(unigram.HIDDEN)

    def continues(self, token_id: int) -> bool:
        """Whether a token goes on with the word before it ("##"); no special token does."""
        token = self.token(token_id)
        if token_id in self.special_ids or self.kind == "WordPiece":
            return token.startswith("##")
        return byte_level.continues(token) if self.kind == "BPE" else unigram.continues(token)

    def single_row(self, ids: list[int], positions: list[int]) -> Row:
        """[CLS] a [SEP], or what stands for them."""
        input_ids = [self.cls_id, *ids, self.sep_id]
        return Row(input_ids, [0] * len(input_ids), positions)

    def pair_row(self, first: list[int], second: list[int], positions: list[int]) -> Row:
        """[CLS] a [SEP] b [SEP], segment 1 from b on; RoBERTa has two [SEP] between the texts, and one segment."""
        input_ids = [self.cls_id, *first, *[self.sep_id] * self.layout.separators, *second, self.sep_id]
        before = self.second_column(len(first))
        return Row(input_ids, [0] * before + [self.layout.segment] * (len(input_ids) - before), positions)

    def second_column(self, first: int) -> int:
        """Return the column at which the second text of a pair begins, behind `first` tokens of the first."""
        return 1 + first + self.layout.separators

    def _kept(self, text: str) -> str:
        """Return a text from its first character on that the rules keep."""
        return unigram.without_removed(text, self._backend.normalizer) if self.kind == "Unigram" else text

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return list(map(unpack_ids, self._known.find(texts))) if self._is_fast(texts) else self.encode_ids(texts)

    def _encode_known(self, text: str) -> Pieces:
        (known,) = self._known.find([text])
        return unpack(text, known)

    def _is_fast(self, texts: Sequence[str]) -> bool:
        """Whether to read texts by the words that are known; new ones in long texts would hold up other threads."""
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
    if text.isascii() and "\0" not in text:  # as most are: ten times faster than the search
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
    """Return the kind of a tokenizer, after a check that the file cuts text as a supported class does."""
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
    """Return the added tokens, with those of `ids` among them, as special ones."""
    missing = [token for token in ids if all(other["content"] != token for other in added)]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    every = [*added, *({"id": ids[token], "content": token, **flags} for token in missing)]
    return [token | {"special": token.get("special", True) or token["content"] in ids} for token in every]


def _added_words(backend: tokenizers.Tokenizer) -> list[tokenizers.AddedToken]:
    """Return the tokens that were added to the vocabulary, which are found across blanks and punctuation."""
    return [token for token in backend.get_added_tokens_decoder().values() if not token.special]


def _added_token(token: dict[str, Any]) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(**{key: value for key, value in token.items() if key != "id"})


def _mask_pattern(mask: str, added: Sequence[dict[str, Any]]) -> re.Pattern[str]:
    """Return what divides a text at its masks."""
    sides = next((token for token in added if token["content"] == mask), {})
    left, right = (f"[{BLANKS}]*" if sides.get(side) else "" for side in ("lstrip", "rstrip"))
    return re.compile(f"{left}(?:{re.escape(mask)}|{re.escape(MASK)}){right}")


def _lowercases(backend: tokenizers.Tokenizer) -> bool:
    return backend.normalizer is not None and bool(backend.normalizer.normalize_str("A") == "a")
