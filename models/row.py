"""What a task hands to an encoder, and keeps for itself until the logits are back.

A row is never padded: rows of different tasks meet in one batch, and only the batch knows how long it is.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

Source = TypeVar("Source")


class RowKey:
    """What the encoder reads of a row: equal keys make equal vectors. Hashed once, for a tuple is each time."""

    __slots__ = ("_hash", "input_ids", "token_type_ids")

    def __init__(self, input_ids: tuple[int, ...], token_type_ids: tuple[int, ...]) -> None:
        self.input_ids = input_ids
        self.token_type_ids = token_type_ids
        self._hash = hash((input_ids, len(token_type_ids)))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RowKey)
            and self.input_ids == other.input_ids
            and self.token_type_ids == other.token_type_ids
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row of an encoder batch: [CLS] a [SEP] or [CLS] a [SEP] b [SEP], or RoBERTa's `<s> a </s></s> b </s>`."""

    input_ids: list[int]
    token_type_ids: list[int]
    positions: list[int]
    """Columns whose vectors the head reads, ascending; at least one."""
    _key: RowKey | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def key(self) -> RowKey:
        """Return what tells rows apart that the encoder must compute separately; made once."""
        if self._key is None:
            object.__setattr__(self, "_key", RowKey(tuple(self.input_ids), tuple(self.token_type_ids)))
        assert self._key
        return self._key


@dataclass(frozen=True, slots=True)
class Encoded(Generic[Source]):
    """An input as the encoder takes it: several rows where it slides windows (qa, tag), else one."""

    rows: list[Row]
    source: Source
    """What decode needs of the input: text, offsets, windows … (typed per task)."""
    truncated: int
    """Tokens that were cut off, 0 when nothing was."""
