"""Unigram as in SentencePiece (Kudo, 2018): pieces of normalized text, in which "▁" stands for a space before a word.

The vocabulary of such a model contains its special tokens as ordinary pieces with the best score, so a text with "</s>"
would inject one. Here they get names that no text can contain; written files have the original names again.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers.decoders import Fuse, Replace
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import Unigram
from tokenizers.normalizers import Normalizer, Precompiled
from tokenizers.pre_tokenizers import Metaspace, Sequence, WhitespaceSplit
from tokenizers.processors import TemplateProcessing

from models.errors import CheckpointError
from models.special_tokens import ANGLED, BRACKETED, UNUSED, Parts, token_id

HIDDEN = "\0"
"""Prefix of the names of special tokens; no text can contain it."""
CANNOT = "transformers 4 and 5 tokenize text differently with it; write the tokenizer again with save_pretrained"
CLEANED = [(f" {mark}", mark) for mark in ".?!,"] + [(" ' ", "'")]
CLEANED += [(f" {end}", end) for end in ("n't", "'m", "'s", "'ve", "'re")]
"""The replacements of transformers' clean_up_tokenization, in order."""
SPLITS = (["WhitespaceSplit", "Metaspace"], ["Metaspace"])
BEFORE: tuple[list[str], ...] = (
    ["Precompiled"],
    ["Precompiled", "Strip", "Replace"],
    ["Precompiled", "Replace"],
    ["Strip", "Replace"],
    [],
)
"""Supported steps of normalizers: besides SentencePiece's own table, they only remove repeated spaces."""


def check(parts: Parts, origin: str) -> None:
    """Raise CheckpointError if the rules are not those of XLM-RoBERTa and CamemBERT."""
    if parts["model"].get("byte_fallback"):
        raise CheckpointError(f"{origin}: byte_fallback is True, expected False as in XLM-RoBERTa's tokenizer")
    unknown = parts["model"]["unk_id"]
    if unknown is None or parts["model"]["vocab"][unknown][0] not in (ANGLED["unk_token"], BRACKETED["unk_token"]):
        raise CheckpointError(f"{origin}: unk_id is {unknown}, expected the number of the entry <unk>; correct it")
    steps = _steps(parts["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if kinds not in SPLITS:
        raise CheckpointError(
            f"{origin}: pre_tokenizer is {', '.join(kinds) or None}, expected Metaspace as in XLM-RoBERTa's tokenizer; "
            "serve this model with transformers"
        )
    for key, expected in {"replacement": ("▁",), "prepend_scheme": ("always", "never"), "split": (True,)}.items():
        if steps[-1][key] not in expected:
            raise CheckpointError(f"{origin}: {key} of Metaspace is {steps[-1][key]!r}, expected {expected[0]!r}")


def as_fairseq(backend: tokenizers.Tokenizer, parts: Parts, origin: str, add_prefix_space: bool) -> None:
    """Give a tokenizer the rules of `XLMRobertaTokenizer` and `CamembertTokenizer`, which ignore most of the file."""
    backend.normalizer = _table(parts, origin)
    written, said = _prepends(parts), "always" if add_prefix_space else "never"
    if written != said:
        raise CheckpointError(
            f"{origin}: prepend_scheme is {written!r}, expected {said!r} by add_prefix_space in tokenizer_config.json; "
            "make the two agree, as when the checkpoint was trained"
        )
    backend.pre_tokenizer = Sequence([WhitespaceSplit(), Metaspace(prepend_scheme=said)])
    cls, sep = ANGLED["cls_token"], ANGLED["sep_token"]
    backend.post_processor = TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, sep, "$B", sep],
        special_tokens=[(token, token_id(backend, token, origin)) for token in (cls, sep)],
    )


def _table(parts: Parts, origin: str) -> Normalizer | None:
    """Return the only step of the normalizer that those classes keep: SentencePiece's table, if there is one."""
    steps = _steps(parts["normalizer"], "normalizers")
    kinds = [step["type"] for step in steps]
    if kinds not in BEFORE:
        raise CheckpointError(f"{origin}: normalizer is {', '.join(kinds)}, expected Precompiled alone, since {CANNOT}")
    if "Precompiled" not in kinds:
        return None
    return Precompiled(base64.b64decode(steps[0]["precompiled_charsmap"]))


def _steps(part: Any, name: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return part[name] if part["type"] == "Sequence" else [part]


def _prepends(parts: Parts) -> str:
    found: str = _steps(parts["pre_tokenizer"], "pretokenizers")[-1]["prepend_scheme"]
    return found


def without_removed(text: str, normalizer: Normalizer | None) -> str:
    """Return a text without the leading characters that the normalizer removes, such as U+0007.

    After such characters the library's offsets are too small by one. A text of only such characters is unchanged.
    """
    start = 0
    while normalizer and not text[start : start + 1].isprintable() and not normalizer.normalize_str(text[start]):
        start += 1
    return text[start:] or text


def set_decoder(backend: tokenizers.Tokenizer, parts: Parts, cleans: bool = False) -> None:
    """Set the decoder, which joins pieces to text; `cleans`: remove spaces before marks even if the file does not."""
    cleans = cleans or any(step["type"] == "Replace" for step in _steps(parts["decoder"], "decoders"))
    marks = [Replace(old, new) for old, new in CLEANED] if cleans else []
    backend.decoder = DecoderSequence([MetaspaceDecoder(prepend_scheme=_prepends(parts)), Fuse(), *marks])


def continues(token: str) -> bool:
    """Whether a piece continues a word."""
    return not token.startswith("▁")


# ---- special tokens that text cannot make --------------------------------------------------------------------------


def hide(
    backend: tokenizers.Tokenizer, parts: Parts, specials: Iterable[str], origin: str
) -> tuple[tokenizers.Tokenizer, set[int]]:
    """Return a tokenizer of `parts` in which special tokens that are also pieces are renamed, and the ids of these."""
    model = parts["model"]
    hidden = {*specials, *UNUSED} & {entry for entry, _ in model["vocab"]}
    vocabulary = [(HIDDEN + entry if entry in hidden else entry, score) for entry, score in model["vocab"]]
    made = tokenizers.Tokenizer(Unigram(vocabulary, model["unk_id"], False))
    made.normalizer, made.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
    made.post_processor = backend.post_processor
    for token in parts["added_tokens"]:
        if token["content"] not in hidden:
            _add(made, token, origin)
    return made, {token_id(made, HIDDEN + token, origin) for token in hidden}


def _add(backend: tokenizers.Tokenizer, token: dict[str, Any], origin: str) -> None:
    backend.add_tokens([tokenizers.AddedToken(**{key: value for key, value in token.items() if key != "id"})])
    found = backend.token_to_id(token["content"])
    if found != token["id"]:
        raise CheckpointError(
            f"{origin}: the added token {token['content']!r} has the id {token['id']}, expected {found}, the next one; "
            "write the tokenizer again with save_pretrained"
        )


def show(backend: tokenizers.Tokenizer, added: list[dict[str, Any]]) -> str:
    """Return the content of tokenizer.json for a tokenizer from `hide`, with the original names and added tokens."""
    parts = json.loads(backend.to_str())
    parts["model"]["vocab"] = [[entry.removeprefix(HIDDEN), score] for entry, score in parts["model"]["vocab"]]
    return json.dumps({**parts, "added_tokens": added}, ensure_ascii=False, indent=2)


def explain_sentencepiece(path: Path) -> CheckpointError:
    """Return the error for a SentencePiece model, with the command that converts it to tokenizer.json."""
    command = "from transformers import AutoTokenizer as A; A.from_pretrained(D).save_pretrained(D)"
    return CheckpointError(
        f"{path.parent} has {path.name} but no tokenizer.json; write it with transformers and sentencepiece installed: "
        f'python -c "D={str(path.parent)!r}; {command}"'
    )
