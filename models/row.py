"""What a task hands to an encoder, and keeps for itself until the logits are back.

A row is never padded: rows of different tasks meet in one batch, and only the batch knows how long it is.
"""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Source = TypeVar("Source")


class RowKey(NamedTuple):
    """What the encoder reads of a row: equal keys make equal vectors."""

    input_ids: tuple[int, ...]
    token_type_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an encoder batch: [CLS] a [SEP] or [CLS] a [SEP] b [SEP], or RoBERTa's `<s> a </s></s> b </s>`."""

    input_ids: list[int]
    token_type_ids: list[int]
    positions: list[int]
    """Columns whose vectors the head reads, ascending; at least one."""

    @property
    def key(self) -> RowKey:
        """Return what tells rows apart that the encoder must compute separately."""
        return RowKey(tuple(self.input_ids), tuple(self.token_type_ids))


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Source]):
    """An input as the encoder takes it: several rows where it slides windows (qa, tag), else one."""

    rows: list[Row]
    source: Source
    """What decode needs of the input: text, offsets, windows … (typed per task)."""
    truncated: int
    """Tokens that were cut off, 0 when nothing was."""
