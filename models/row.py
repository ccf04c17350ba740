"""What a task hands to an encoder, and keeps for itself until the logits are back.

A row is never padded: rows of different tasks meet in one batch, and only the batch knows how long it is.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

Source = TypeVar("Source")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an encoder batch: [CLS] a [SEP] or [CLS] a [SEP] b [SEP], never padded."""

    input_ids: list[int]
    token_type_ids: list[int]
    positions: list[int]
    """Columns whose vectors the head reads, ascending; at least one."""


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Source]):
    """An input as the encoder takes it: several rows where it slides windows (qa, tag), else one."""

    rows: list[Row]
    source: Source
    """What decode needs of the input: text, offsets, windows … (typed per task)."""
    truncated: int
    """Tokens that were cut off, 0 when nothing was."""
