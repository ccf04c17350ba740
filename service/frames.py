"""The frames that a front and an engine process exchange over a Unix socket, in native byte order.

    u32 length of the rest · u8 kind · a body that depends on the kind:
    REQUEST  number, session, deadline, weight, trace, and counts; then int32: the length of each row; for each call its
             head, its row, and how many positions and wanted ids it has; all positions; all wanted ids (Row.wanted).
             Then for each row: token ids as int32, then a segment byte per token.
    ANSWER   number, start and end of computing, count; then int32: the shape of each call's logits; float32: all logits
    FAILURE  number, start of computing; then JSON: a ServiceError
    EXPIRE   number: the deadline has passed
    DROP     number, reason: the front no longer waits for the answer
    OPEN, OPENED, REFUSED, CLOSE  JSON: a front asks for a bundle, gets a session or an error message, and releases it

Times are in seconds of time.monotonic, which all processes of a machine share. A row that several heads read is sent
once.
"""

import json
import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from models.row import Row, RowKey
from service.errors import (
    ClientGone,
    DeadlinePassed,
    FieldError,
    InferenceFailed,
    QueueFull,
    ServiceError,
    Unavailable,
    Unprocessable,
)
from service.queue import Deadline, Job, Logits

REQUEST, ANSWER, FAILURE, EXPIRE, DROP, OPEN, OPENED, REFUSED, CLOSE = range(9)
LENGTH = struct.Struct("=I")
START = struct.Struct("=IB")
ASKED = struct.Struct("=QIddd16s8sIIII")
ANSWERED = struct.Struct("=QddI")
SHAPE = struct.Struct("=2i")
FAILED = struct.Struct("=Qd")
NUMBER = struct.Struct("=Q")
DROPPED = struct.Struct("=QB")
ERRORS: dict[str, type[ServiceError]] = {
    error.code: error for error in (QueueFull, ClientGone, InferenceFailed, Unavailable)
}
"""The errors that an engine raises, by code; Unprocessable and DeadlinePassed are handled separately."""
MAX_JSON_BYTES = 1 << 20


class FrameError(Exception):
    """Raised for an invalid frame: the other process has a bug."""


class Splitter:
    """Splits the bytes from a socket into frames."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size, self._wanted = 0, LENGTH.size

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Yield kind and body of each frame that is complete now; raise FrameError for a wrong length."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return
        whole = b"".join(self._parts) if len(self._parts) > 1 else data
        view, at, size = memoryview(whole), 0, len(whole)
        self._wanted = LENGTH.size
        while size - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(whole, at)
            if not 1 <= length <= self._max_bytes:
                raise FrameError(f"a frame has {length} bytes, expected 1 to {self._max_bytes}")
            end = at + LENGTH.size + length
            if end > size:
                self._wanted = LENGTH.size + length
                break
            yield whole[at + LENGTH.size], view[at + START.size : end]
            at = end
        self._parts, self._size = [whole[at:]], size - at


def frame(kind: int, head: bytes, *parts: Any) -> list[Any]:
    """Return a frame as parts that the caller joins: bytes and arrays."""
    size = 1 + len(head)
    for part in parts:
        size += part.nbytes if isinstance(part, np.ndarray) else len(part)
    return [START.pack(size, kind) + head, *parts]


# ---- requests ------------------------------------------------------------------------------------------------------


class Request(NamedTuple):
    """A request as the engine process reads it."""

    number: int
    session: int
    deadline: Deadline
    weight: float
    trace: dict[str, str]
    calls: list[tuple[int, Row]]
    """Index of the head in its bundle, and the row that it reads."""


def pack_request(number: int, session: int, heads: Mapping[str, int], job: Job) -> list[Any]:
    """Return the frame of a job."""
    of_call = {index: place for place, item in enumerate(job.items) for index in item.indices}
    calls = job.calls
    numbers = [item.length for item in job.items]
    numbers += [heads[name] for name, _ in calls]
    numbers += [of_call[index] for index in range(len(calls))]
    numbers += [len(row.positions) for _, row in calls]
    numbers += [len(row.wanted) for _, row in calls]
    before = len(numbers)
    for _, row in calls:
        numbers += row.positions
    positions = len(numbers) - before
    for _, row in calls:
        numbers += row.wanted
    wanted = len(numbers) - before - positions
    keys = [part for item in job.items for part in item.key]
    trace = bytes.fromhex(job.trace.get("trace_id", "")), bytes.fromhex(job.trace.get("span_id", ""))
    asked = (number, session, *job.deadline, job.weight, *trace, len(job.items), len(calls), positions, wanted)
    return frame(REQUEST, ASKED.pack(*asked), array("i", numbers).tobytes(), *keys)


def unpack_request(body: memoryview) -> Request:
    """Return a request; equal rows share their key. Raises FrameError for a wrong length."""
    number, session, at, seconds, weight, trace_id, span_id, rows, count, positions, wanted = ASKED.unpack_from(body)
    place = ASKED.size
    sizes = struct.unpack_from(f"={rows + 4 * count}i", body, place)
    lengths, heads = sizes[:rows], sizes[rows : rows + count]
    of_call, counts = sizes[rows + count : rows + 2 * count], sizes[rows + 2 * count : rows + 3 * count]
    place += 4 * len(sizes)
    read = struct.unpack_from(f"={positions}i", body, place)
    place += 4 * positions
    asked = struct.unpack_from(f"={wanted}i", body, place)
    place += 4 * wanted
    expected = place + 5 * sum(lengths)
    if len(body) != expected:
        raise FrameError(f"a request of {sum(lengths)} tokens has {len(body)} bytes, expected {expected}")
    keys = []
    for length in lengths:
        middle, end = place + 4 * length, place + 5 * length
        keys.append(RowKey(bytes(body[place:middle]), bytes(body[middle:end])))
        place = end
    if count == 1:  # as most have
        calls = [(heads[0], _row(keys[0], read, asked))]
    else:
        columns = [read[a:b] for a, b in pairwise(accumulate(counts, initial=0))]
        asks = [asked[a:b] for a, b in pairwise(accumulate(sizes[rows + 3 * count :], initial=0))]
        parts = zip(heads, of_call, columns, asks, strict=True)
        calls = [(head, _row(keys[row], mine, ask)) for head, row, mine, ask in parts]
    trace = {"trace_id": trace_id.hex()} if any(trace_id) else {}
    if any(span_id):
        trace["span_id"] = span_id.hex()
    return Request(number, session, Deadline(at, seconds), weight, trace, calls)


def _row(key: RowKey, positions: tuple[int, ...], wanted: tuple[int, ...]) -> Row:
    """Return the row of a key, without copying it."""
    row = Row(array("i", key.input_ids), key.token_type_ids, positions, wanted)  # type: ignore[arg-type]  # only read
    row.__dict__["key"] = key
    return row


def pack_answer(number: int, started: float, finished: float, logits: Sequence[Logits]) -> list[Any]:
    """Return the frame of an answer."""
    if len(logits) == 1:  # as most have
        head = ANSWERED.pack(number, started, finished, 1) + SHAPE.pack(*logits[0].shape)
        return frame(ANSWER, head, np.ascontiguousarray(logits[0]))
    shapes = list(chain.from_iterable(each.shape for each in logits))
    head = ANSWERED.pack(number, started, finished, len(logits)) + struct.pack(f"={len(shapes)}i", *shapes)
    return frame(ANSWER, head, *map(np.ascontiguousarray, logits))


def unpack_answer(body: memoryview) -> tuple[int, float, float, list[Logits]]:
    """Return the number of a request, its start and end time, and its logits as read-only arrays."""
    number, started, finished, count = ANSWERED.unpack_from(body)
    shapes = struct.unpack_from(f"={2 * count}i", body, ANSWERED.size)
    flat = np.frombuffer(body, np.float32, offset=ANSWERED.size + 4 * len(shapes))
    if count == 1:
        return number, started, finished, [flat.reshape(shapes)]
    sizes = [(rows, width) for rows, width in zip(shapes[::2], shapes[1::2], strict=True)]
    ends = accumulate((rows * width for rows, width in sizes), initial=0)
    parts = zip(sizes, pairwise(ends), strict=True)
    return number, started, finished, [flat[a:b].reshape(size) for size, (a, b) in parts]


# ---- errors and JSON -----------------------------------------------------------------------------------------------


def pack_failure(number: int, started: float, error: ServiceError) -> list[Any]:
    """Return the frame of an error."""
    told = {
        "code": error.code,
        "detail": error.detail,
        "fields": [[each.field, each.message] for each in error.errors],
        "headers": error.headers,
        "passed": [error.where, error.seconds] if isinstance(error, DeadlinePassed) else None,
    }
    return frame(FAILURE, FAILED.pack(number, started), json.dumps(told).encode())


def unpack_failure(body: memoryview) -> tuple[int, float, ServiceError]:
    """Return the number of a request, its start time (0: never started), and the error that was raised."""
    number, started = FAILED.unpack_from(body)
    told = unpack_json(body[FAILED.size :])
    fields = [FieldError(*each) for each in told["fields"]]
    error: ServiceError
    if told["passed"]:
        error = DeadlinePassed(*told["passed"])
    elif told["code"] == Unprocessable.code:
        error = Unprocessable(fields)
    else:
        error = ERRORS.get(told["code"], ServiceError)(told["detail"], headers=told["headers"])
    error.errors = fields
    return number, started, error


def pack_json(kind: int, value: object) -> list[Any]:
    """Return a frame with JSON."""
    return frame(kind, json.dumps(value).encode())


def unpack_json(body: memoryview) -> Any:
    """Return the value of JSON."""
    return json.loads(bytes(body))
