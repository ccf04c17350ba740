"""Turns rows into the inputs of an encoder's graph: padded to the longest row, or packed end to end.

The names of a graph's inputs tell which of the two it takes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.row import Row, RowKey

PADDED = {name: ("tensor(int64)", ["B", "S"]) for name in ("input_ids", "token_type_ids", "attention_mask")}
PADDED |= {"positions": ("tensor(int64)", ["N"])}
"""Inputs of a graph that takes padded rows: element type and shape by name."""
PACKED: dict[str, tuple[str, list[Any]]] = {
    name: ("tensor(int32)", shape)
    for name, shape in {
        "input_ids": ["T"],
        "places": ["T"],
        "starts": ["B1"],
        "offsets": ["B", "S"],
        "positions": ["N"],
    }.items()
}
"""Inputs of a graph that takes packed rows; training/exporting/packed_encoder.py describes them."""


class Batch(NamedTuple):
    """The inputs of an encoder without `positions`, and the first flat position of each row."""

    inputs: dict[str, NDArray[Any]]
    starts: Sequence[int]

    def read(self, positions: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return all inputs, including the flat positions whose vectors the encoder should return."""
        return self.inputs | {"positions": np.array(positions, self.inputs["input_ids"].dtype)}

    def read_all(self, rows: Sequence[Row]) -> dict[str, NDArray[Any]]:
        """Return all inputs, including the positions of these rows, in order."""
        starts = zip(self.starts, rows, strict=True)
        return self.read([start + column for start, row in starts for column in row.positions])


def pad(rows: Sequence[RowKey], pad_id: int) -> Batch:
    """Lay rows into input_ids, token_type_ids and attention_mask [B, S], padded on the right."""
    filled = _filled(rows)
    input_ids = np.full(filled.shape, pad_id, np.int64)
    token_type_ids = np.zeros(filled.shape, np.int64)
    input_ids[filled], token_type_ids[filled] = _joined(rows)
    inputs = {"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": filled.astype(np.int64)}
    return Batch(inputs, range(0, filled.size, filled.shape[1]))


def pack(rows: Sequence[RowKey], max_length: int) -> Batch:
    """Lay rows end to end, without padding; `max_length` is the length of the encoder's position table."""
    filled = _filled(rows)
    flat = filled.ravel()
    input_ids, segments = _joined(rows)
    columns = np.broadcast_to(np.arange(filled.shape[1], dtype=np.int32), filled.shape)[filled]
    starts = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(filled.sum(1), out=starts[1:])
    offsets = np.concatenate([np.flatnonzero(flat), np.flatnonzero(~flat)]).astype(np.int32)
    inputs = {
        "input_ids": input_ids,
        "places": segments.astype(np.int32) * max_length + columns,
        "starts": starts,
        "offsets": offsets.reshape(filled.shape),
    }
    return Batch(inputs, starts[:-1].tolist())


def _joined(rows: Sequence[RowKey]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Return the ids and the segments of all tokens [T]."""
    input_ids = np.frombuffer(b"".join([row.input_ids for row in rows]), np.int32)
    return input_ids, np.frombuffer(b"".join([row.token_type_ids for row in rows]), np.uint8)


def _filled(rows: Sequence[RowKey]) -> NDArray[np.bool_]:
    """Return a mask [B, S] that is True for tokens and False for padding."""
    lengths = np.array([row.length for row in rows])
    filled: NDArray[np.bool_] = np.arange(lengths.max()) < lengths[:, None]
    return filled
