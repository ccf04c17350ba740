"""The rows that a task passes to an encoder, and the data that it keeps for decoding.

Rows are never padded here: a batch may contain rows of different tasks, and only the batch knows its longest row.
"""

from array import array
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

Source = TypeVar("Source")


class RowKey(NamedTuple):
    """The part of a row that the encoder reads: rows with equal keys have equal vectors."""

    input_ids: bytes
    """int32, in native byte order."""
    token_type_ids: bytes
    """uint8."""

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
    """For a fill-mask head on a GPU: how many tokens are requested, then the ids to choose from, if not all; see
    models/choices.py. If empty, all logits are returned."""

    @cached_property
    def key(self) -> RowKey:
        """The key of the row; the encoder computes rows with equal keys once."""
        return RowKey(array("i", self.input_ids).tobytes(), bytes(self.token_type_ids))


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Source]):
    """An encoded input: several rows if it is read in windows, otherwise one."""

    rows: list[Row]
    source: Source
    """What decode needs to know about the input: text, offsets, windows … (its type depends on the task)."""
    truncated: int
    """Number of tokens that were cut off."""
