"""The special tokens of a tokenizer, and the layout of rows: `[CLS] a [SEP] b [SEP]` or `<s> a </s></s> b </s>`.

User text cannot inject special tokens. Their names are read from the files; two sets are known, BERT's and RoBERTa's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers

from models.errors import CheckpointError

MASK = "[MASK]"
"""The name of the mask in texts for every model, even if the vocabulary has another name for it."""
BRACKETED = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": MASK}
ANGLED = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
UNUSED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
"""Entries in CamemBERT's vocabulary that are never used."""
OWN = frozenset((*BRACKETED.values(), *ANGLED.values(), *UNUSED))
"""Tokens that text cannot inject. Text may contain other special tokens: they are markers of finetuned heads."""

Parts = Mapping[str, Any]
"""The content of tokenizer.json, as written by the `tokenizers` library."""


class Layout(NamedTuple):
    """The layout of two texts in a row."""

    separators: int
    """Number of separator tokens between them."""
    segment: int
    """Segment of the second text; that of the first is 0."""

    @property
    def specials(self) -> int:
        """Number of special tokens in a row of two texts."""
        return 2 + self.separators


OF_BERT, OF_ROBERTA = Layout(1, 1), Layout(2, 0)
LAYOUTS = (OF_BERT, OF_ROBERTA, Layout(1, 0))

Rows = dict[str, list[tuple[str, int]]]
"""For "single" and "pair", the parts of a row (A and B are the texts) with their segments."""


def rows_of(processor: Parts | None) -> Rows:
    """Return the rows that a post-processor makes; an empty dict if it makes none."""
    found = processor or {}
    if found.get("type") == "Sequence":
        return next(filter(None, map(rows_of, found["processors"])), {})
    if found.get("type") in ("BertProcessing", "RobertaProcessing"):
        layout = OF_BERT if found["type"] == "BertProcessing" else OF_ROBERTA
        return make_rows(found["cls"][0], found["sep"][0], layout)
    if found.get("type") != "TemplateProcessing":
        return {}
    return {
        name: [(part["id"], part["type_id"]) for step in found[name] for part in step.values()]
        for name in ("single", "pair")
    }


def make_rows(cls: str, sep: str, layout: Layout) -> Rows:
    """Return the rows of a layout."""
    single = [(cls, 0), ("A", 0), (sep, 0)]
    second = [("B", layout.segment), (sep, layout.segment)]
    return {"single": single, "pair": [*single, *[(sep, 0)] * (layout.separators - 1), *second]}


def read_rows(processor: Parts | None, origin: str) -> tuple[Layout, dict[str, str]]:
    """Return the layout of a post-processor, and the names of its special tokens.

    Raise CheckpointError for rows that are not supported.
    """
    rows = rows_of(processor)
    for layout in LAYOUTS:
        for names in (BRACKETED, ANGLED):
            if rows == make_rows(names["cls_token"], names["sep_token"], layout):
                return layout, names
    raise CheckpointError(
        f"{origin}: post_processor makes rows of {rows.get('pair')}, expected <s> A </s> </s> B </s>, or those of "
        "BERT; pass a tokenizer whose class makes them"
    )


def token_id(backend: tokenizers.Tokenizer, token: str, origin: str) -> int:
    """Return the id of a token; raise CheckpointError if there is none."""
    found: int | None = backend.token_to_id(token)
    if found is None:
        expected = ", ".join((ANGLED if token in ANGLED.values() else BRACKETED).values())
        raise CheckpointError(f"{origin} has no token {token}, expected all of {expected}; pass a whole vocabulary")
    return found


def content(token: Any) -> Any:
    """Return the text of a token, which files store as a string or as an object with properties."""
    return token.get("content") if isinstance(token, dict) else token
