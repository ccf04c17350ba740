"""What a task hands to an encoder, and keeps for itself until the logits are back.

A row is never padded: rows of different tasks meet in one batch, and only the batch knows how long it is.
"""

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

Source = TypeVar("Source")


class RowKey(NamedTuple):
    """What the encoder reads of a row, as it reads it: equal keys make equal vectors."""

    input_ids: bytes
    """int32, in the order of this machine."""
    token_type_ids: bytes
    """uint8"""

    @property
    def length(self) -> int:
        """Tokens of the row."""
        return len(self.token_type_ids)


@dataclass(frozen=True)
class Row:
    """One row of an encoder batch: [CLS] a [SEP] or [CLS] a [SEP] b [SEP], or RoBERTa's `<s> a </s></s> b </s>`."""

    input_ids: list[int]
    token_type_ids: list[int]
    positions: list[int]
    """Columns whose vectors the head reads, ascending; at least one."""
    wanted: tuple[int, ...] = ()
    """Of a fill-mask head on a GPU: how many tokens are wanted, then the ids to choose among, if not all; see
    models/choices.py. By default all logits."""

    @cached_property
    def key(self) -> RowKey:
        """What tells rows apart that the encoder must compute separately."""
        return RowKey(array("i", self.input_ids).tobytes(), bytes(self.token_type_ids))


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Source]):
    """An input as the encoder takes it: several rows where it slides windows (qa, tag), else one."""

    rows: list[Row]
    source: Source
    """What decode needs of the input: text, offsets, windows … (typed per task)."""
    truncated: int
    """Tokens that were cut off, 0 when nothing was."""
