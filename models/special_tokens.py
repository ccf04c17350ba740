"""The special tokens of a tokenizer, and the rows that they make: `[CLS] a [SEP] b [SEP]`, `<s> a </s></s> b </s>`.

Text never makes one of them. Which they are is read from the files; two sets of names are known, BERT's and RoBERTa's.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import tokenizers

from models.errors import CheckpointError

MASK = "[MASK]"
"""What every model takes for its mask in a text, whatever the mask is called in its vocabulary."""
BRACKETED = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": MASK}
ANGLED = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}
UNUSED = ("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED")
"""Entries of CamemBERT that no row holds."""
OWN = frozenset((*BRACKETED.values(), *ANGLED.values(), *UNUSED))
"""Tokens that no text may make. Other special tokens mark something in a text that a head was finetuned with."""

Parts = Mapping[str, Any]
"""What tokenizer.json holds, as the `tokenizers` library writes it."""


class Layout(NamedTuple):
    """How two texts stand in a row."""

    separators: int
    """Tokens between them."""
    segment: int
    """Of the second text; the first has 0."""

    @property
    def specials(self) -> int:
        """Special tokens of a row of two texts."""
        return 2 + self.separators


OF_BERT, OF_ROBERTA = Layout(1, 1), Layout(2, 0)
LAYOUTS = (OF_BERT, OF_ROBERTA, Layout(1, 0))

Rows = dict[str, list[tuple[str, int]]]
"""For "single" and "pair", the parts of a row (A and B are the texts) with their segments."""


def rows_of(processor: Parts | None) -> Rows:
    """Return the rows that a post-processor makes; nothing if it makes none."""
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
    """Return how a post-processor lays out two texts, and the set of names of its tokens.

    Raise CheckpointError for rows that are made nowhere here.
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
    """Return the text of a token, which files give as such, or with its properties."""
    return token.get("content") if isinstance(token, dict) else token
