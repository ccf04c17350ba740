"""Byte-level BPE as in RoBERTa (Radford et al., 2019): text → UTF-8 → pieces that include the space before a word.

The rules are those of `RobertaTokenizer` in transformers. Other tokenizers of this kind, which normalize text first or
split it with another pattern, are refused.
"""

from pathlib import Path

import tokenizers
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing

from models.errors import CheckpointError
from models.special_tokens import ANGLED, Parts, token_id

VOCABULARY, MERGES = "vocab.json", "merges.txt"
NEUTRAL: dict[str, tuple[object, ...]] = {
    "dropout": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
"""Settings of the model, with the values that have no effect."""


def check(parts: Parts, origin: str) -> None:
    """Raise CheckpointError if the rules are not RoBERTa's."""
    for key, expected in NEUTRAL.items():
        found = parts["model"].get(key)
        if found not in expected:
            raise CheckpointError(f"{origin}: {key} is {found!r}, expected {expected[0]!r} as in RoBERTa's tokenizer")
    if parts["normalizer"] is not None:
        raise CheckpointError(
            f"{origin}: normalizer is {parts['normalizer']['type']}, expected none as in RoBERTa's tokenizer; serve "
            "this model with transformers"
        )
    splitter = parts["pre_tokenizer"] or {}
    if splitter.get("type") != "ByteLevel" or not splitter.get("use_regex", True):
        found = "ByteLevel without its pattern" if splitter.get("type") == "ByteLevel" else splitter.get("type")
        raise CheckpointError(
            f"{origin}: pre_tokenizer is {found}, expected ByteLevel alone as in RoBERTa's tokenizer; serve this model "
            "with transformers"
        )


def read(directory: Path) -> tokenizers.Tokenizer:
    """Build a tokenizer from vocab.json and merges.txt, without the rules of a tokenizer class."""
    path = directory / VOCABULARY
    try:
        return tokenizers.Tokenizer(BPE.from_file(str(path), str(directory / MERGES)))
    except Exception as error:  # the library raises bare Exception for everything
        raise CheckpointError(f"{path} and {MERGES} cannot be read ({error}); restore both files") from None


def as_roberta(backend: tokenizers.Tokenizer, origin: str, add_prefix_space: bool) -> None:
    """Give a tokenizer the rules of `RobertaTokenizer`, which reads only the vocabulary and added tokens from files."""
    backend.model.unk_token = None
    backend.pre_tokenizer = ByteLevel(add_prefix_space=add_prefix_space)
    cls, sep = (token_id(backend, token, origin) for token in (ANGLED["cls_token"], ANGLED["sep_token"]))
    backend.post_processor = RobertaProcessing(
        (ANGLED["sep_token"], sep), (ANGLED["cls_token"], cls), trim_offsets=True, add_prefix_space=add_prefix_space
    )


def decoder() -> ByteLevelDecoder:
    """Return the decoder that joins pieces to text."""
    return ByteLevelDecoder()


def spaced(word: str) -> str:
    """Add the space that a given word has before it in running text, as `add_prefix_space` does."""
    return word if word.startswith(" ") or not word else f" {word}"


def continues(token: str) -> bool:
    """Whether a piece continues a word."""
    return not token.startswith("\u0120")  # the printable character that stands for a space
