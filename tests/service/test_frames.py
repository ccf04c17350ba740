"""If this breaks, a front and an engine process misunderstand each other: wrong rows, wrong logits, other errors."""

import struct
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models.row import Row
from service import frames
from service.errors import EXAMPLES, DeadlinePassed, FieldError, ServiceError, Unprocessable, problem, queue_full
from service.queue import Deadline, Job
from tests.service.engines import Encoder

TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def joined(parts: list[Any]) -> bytes:
    return b"".join(parts)


def one(parts: list[Any]) -> tuple[int, memoryview]:
    (found,) = frames.Splitter(1 << 20).feed(joined(parts))
    return found


def job(*calls: tuple[str, Row], weight: float = 1.0, trace: dict[str, str] | None = None) -> Job:
    return Job(Encoder(), list(calls), Deadline(12.5, 30.0), None, 0.0, weight, trace or {})  # type: ignore[arg-type]


def test_a_request_arrives_as_it_was_sent() -> None:
    long = Row(list(range(30_000, 30_500)), [0] * 200 + [1] * 300, list(range(0, 500, 3)))
    same, short = Row(long.input_ids, long.token_type_ids, [7], (5, 30_521)), Row([101, 102], [0, 0], [0], (1,))
    sent = job(("qa", long), ("ner", short), ("nli", same), weight=2.5, trace=TRACE)
    kind, body = one(frames.pack_request(7, 3, {"qa": 4, "ner": 0, "nli": 2}, sent))
    found = frames.unpack_request(body)
    assert kind == frames.REQUEST
    assert (found.number, found.session, found.deadline, found.weight) == (7, 3, Deadline(12.5, 30.0), 2.5)
    assert found.trace == TRACE
    assert [head for head, _ in found.calls] == [4, 0, 2]
    for (_, row), asked in zip(found.calls, (long, short, same), strict=True):
        assert row.key == asked.key and list(row.positions) == list(asked.positions) and row.wanted == asked.wanted
    assert len(body) < 500 * 5 + 167 * 4 + 200, "equal rows are sent once"


@pytest.mark.parametrize("trace", [{}, {"trace_id": TRACE["trace_id"]}])
def test_a_request_of_one_row_arrives_as_it_was_sent(trace: dict[str, str]) -> None:
    row = Row([2, 1, 3], [0, 0, 1], [0, 2], (5, 8))
    found = frames.unpack_request(one(frames.pack_request(1, 1, {"a": 0}, job(("a", row), trace=trace)))[1])
    ((head, same),) = found.calls
    assert (head, same.key, list(same.positions), same.wanted, found.trace) == (0, row.key, [0, 2], (5, 8), trace)


@pytest.mark.parametrize("shapes", [[(1, 2)], [(3, 4), (1, 1), (2, 30_522)], [(0, 4)], [(2, 3)] * 300])
def test_logits_arrive_bit_for_bit(shapes: list[tuple[int, int]]) -> None:
    draw = np.random.default_rng(0)
    whole = draw.normal(size=(sum(rows for rows, _ in shapes), 40_000)).astype(np.float32)
    ends = np.cumsum([0, *(rows for rows, _ in shapes)])
    logits = [whole[a:b, :width] for (a, b), (_, width) in zip(pairwise(ends), shapes, strict=True)]  # not contiguous
    kind, body = next(iter(frames.Splitter(1 << 24).feed(joined(frames.pack_answer(9, 1.25, 2.5, logits)))))
    number, started, finished, found = frames.unpack_answer(body)
    assert (kind, number, started, finished) == (frames.ANSWER, 9, 1.25, 2.5)
    assert [each.shape for each in found] == shapes
    for sent, came in zip(logits, found, strict=True):
        assert came.tobytes() == sent.tobytes()


ERRORS = [each for each in EXAMPLES if each.code in frames.ERRORS] + [
    queue_full("131072 tokens wait", 2.5),
    Unprocessable([FieldError("inputs", "makes too much"), FieldError("parameters.top_k", "is 0")]),
    DeadlinePassed("encode", 0.25),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{error.code}-{len(error.headers)}")
def test_an_error_makes_the_same_answer(error: ServiceError) -> None:
    kind, body = one(frames.pack_failure(3, 1.5, error))
    number, started, found = frames.unpack_failure(body)
    assert (kind, number, started, type(found)) == (frames.FAILURE, 3, 1.5, type(error))
    assert (found.status, found.headers) == (error.status, error.headers)
    assert problem(found, "id", "/classify") == problem(error, "id", "/classify")
    assert vars(found) == vars(error)


def test_frames_are_found_wherever_the_stream_is_cut() -> None:
    sent = [frames.pack_json(kind, {"n": "x" * size}) for kind, size in ((5, 0), (6, 1000), (7, 3), (8, 70_000))]
    stream = b"".join(map(joined, sent))
    for step in (1, 2, 3, 7, 1024, len(stream)):
        splitter, found = frames.Splitter(1 << 20), []
        for at in range(0, len(stream), step):
            found += [(kind, frames.unpack_json(body)) for kind, body in splitter.feed(stream[at : at + step])]
        assert found == [(5, {"n": ""}), (6, {"n": "x" * 1000}), (7, {"n": "xxx"}), (8, {"n": "x" * 70_000})]


@pytest.mark.parametrize("length", [0, 1001, 2**32 - 1])
def test_invalid_frames_are_refused_before_they_are_stored(length: int) -> None:
    with pytest.raises(frames.FrameError, match=f"a frame has {length} bytes, expected 1 to 1000"):
        list(frames.Splitter(1000).feed(struct.pack("=I", length)))


def test_a_truncated_request_is_refused() -> None:
    _, body = one(frames.pack_request(1, 1, {"a": 0}, job(("a", Row([2, 3], [0, 0], [0])))))
    with pytest.raises(frames.FrameError, match="a request of 2 tokens has 109 bytes, expected 110"):
        frames.unpack_request(body[:-1])
