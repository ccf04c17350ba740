"""Passages with masked tokens, for measuring fill-mask on running text.

Masks are written into the text, as a user would do. So a checkpoint, a bundle and a service over HTTP get the same
input and are scored on the same tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.pieces import NO_WORD, Pieces
from models.scripts import first_pieces
from models.tokenizer import MASK, Tokenizer
from training.text.examples import Document

LENGTH = 126  # pieces per passage; 128 with [CLS] and [SEP]
PER_DOCUMENT = 4
MASKED = 0.15  # share of the pieces, as in pretraining; all of these become [MASK]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text with [MASK]s, the ids that they replace (`gold`), and the ids of the original text."""

    text: str
    gold: list[int]
    ids: list[int]


def masked_passages(documents: Sequence[Document], tokenizer: Tokenizer, seed: int = 0) -> list[Passage]:
    """Mask up to PER_DOCUMENT passages of each document, evenly spread; `seed` determines them.

    A passage is left out if masking changes the other pieces, which happens if the document itself contains [MASK].
    """
    passages = []
    for number, document in enumerate(documents):
        pieces = tokenizer.encode_batch([document.text])[0]
        for start, end in _spread(_cut(pieces, tokenizer)):
            generator = np.random.default_rng([seed, number, start])
            passages.append(_mask(document.text, pieces, start, end, tokenizer, generator))
    return [passage for passage in passages if passage is not None]


def _cut(pieces: Pieces, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Split into runs of whole words, at most LENGTH pieces each; a rest below half is dropped, unless it is all."""
    words = first_pieces(np.asarray(pieces.words)).tolist()
    firsts = [n for n in words if n == words[0] or not tokenizer.continues(pieces.ids[n])]
    firsts.append(len(pieces))
    runs = []
    start = firsts[0]
    for first, following in zip(firsts, firsts[1:], strict=False):
        if following - start > LENGTH:
            runs.append((start, first))
            start = first
    if len(pieces) - start >= LENGTH // 2 or not runs:
        runs.append((start, len(pieces)))
    visible = np.flatnonzero(np.asarray(pieces.words) != NO_WORD)
    return [(a, int(visible[np.searchsorted(visible, b) - 1]) + 1) for a, b in runs] if visible.size else []


def _spread(runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    if len(runs) <= PER_DOCUMENT:
        return runs
    return [runs[place] for place in np.linspace(0, len(runs) - 1, PER_DOCUMENT).round().astype(int)]


def _mask(
    text: str, pieces: Pieces, start: int, end: int, tokenizer: Tokenizer, generator: np.random.Generator
) -> Passage | None:
    writable = _writable(text, pieces, start, end, tokenizer)
    count = min(max(1, round(MASKED * (end - start))), len(writable))
    chosen = sorted(generator.choice(writable, count, replace=False).tolist()) if count else []
    masked = set(chosen)
    expected = [tokenizer.mask_id if index in masked else pieces.ids[index] for index in range(start, end)]
    written = _write(text, pieces, _begin(text, pieces, start, tokenizer), end, chosen)
    if not chosen or tokenizer.ids_with_masks(written) != expected:
        return None
    return Passage(written, [pieces.ids[index] for index in chosen], pieces.ids[start:end])


def _writable(text: str, pieces: Pieces, start: int, end: int, tokenizer: Tokenizer) -> list[int]:
    """Return the pieces that [MASK] can replace in text: the last piece of a word.

    "play[MASK]" is read as play + a mask, so "##ing" can be masked. But "[MASK]ing" is read as a mask + the word "ing",
    not "##ing". If pieces contain the blank before a word, the same holds for the comma in "[MASK],". The rest of the
    word must be cut as before.
    """
    numbers = np.asarray(pieces.words)
    ends = np.flatnonzero(np.diff(numbers, append=NO_WORD) * (numbers != NO_WORD)).tolist()
    lasts = [index for index in ends if start <= index < end and pieces.ids[index] != tokenizer.unk_id]
    lasts = [index for index in lasts if index + 1 == end or not tokenizer.continues(pieces.ids[index + 1])]
    firsts = first_pieces(numbers)
    words = list(zip(firsts[np.searchsorted(firsts, lasts, side="right") - 1].tolist(), lasts, strict=True))
    rests = tokenizer.encode_ids([text[_begin(text, pieces, a, tokenizer) : pieces.offsets[b][0]] for a, b in words])
    return [last for (first, last), rest in zip(words, rests, strict=True) if rest == pieces.ids[first:last]]


def _begin(text: str, pieces: Pieces, index: int, tokenizer: Tokenizer) -> int:
    """Return the first character of a piece, including the blank that pieces of RoBERTa contain."""
    start = int(pieces.offsets[index, 0])
    has_blank = tokenizer.kind == "BPE" and not tokenizer.continues(pieces.ids[index])
    return start - (has_blank and text[start - 1 : start] == " ")


def _write(text: str, pieces: Pieces, position: int, end: int, chosen: Sequence[int]) -> str:
    parts = []
    for index in chosen:
        left, right = pieces.offsets[index]
        parts += [text[position:left], MASK]
        position = right
    return "".join([*parts, text[position : pieces.offsets[end - 1][1]]])
