"""If this breaks, rows starve, batches pad more than they must, or the count of what waits is wrong."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.row import Row
from service.queue import WINDOW, Deadline, Item, Job, Logits, Queue


class Encoder:
    def __init__(self, pads: bool = True) -> None:
        self.pads = pads

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        raise NotImplementedError

    run_alone = run

    def gain(self, tokens: int) -> float:
        raise NotImplementedError


ONE, OTHER, PACKING = Encoder(), Encoder(), Encoder(pads=False)
RUN_TOKENS = 6


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_job(loop: asyncio.AbstractEventLoop, *lengths: int, head: str = "a", encoder: Encoder = ONE) -> Job:
    rows = [Row([1] * length, [0] * length, [0]) for length in lengths]
    now = time.monotonic()
    return Job(encoder, head, rows, Deadline(now + 60, 60), loop.create_future(), now)


def filled(loop: asyncio.AbstractEventLoop, *lengths: int, encoder: Encoder = ONE) -> tuple[Queue, list[Job]]:
    queue, jobs = Queue(RUN_TOKENS), [make_job(loop, length, encoder=encoder) for length in lengths]
    for job in jobs:
        queue.push(job)
    return queue, jobs


def padded(batch: Sequence[Item]) -> int:
    return max(item.length for item in batch) * len(batch)


def test_oldest_first_and_like_lengths_beside_it(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 40, 400, 41, 42, 395, 39)
    assert [item.job for item in queue.take(1000)] == [jobs[0], jobs[2], jobs[5], jobs[3]]
    assert [item.job for item in queue.take(1000)] == [jobs[1], jobs[4]]
    assert queue.take(1000) == [] and queue.rows == queue.tokens == 0


def test_a_row_that_pads_more_than_a_run_costs_waits_for_its_own(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 40, 43, 44, 37, 33)
    # beside 40: 43 pads one row by 3, then 37 is padded by 6; 44 would pad three rows by 1 each, which is cheap too
    assert [item.job for item in queue.take(1000)] == [jobs[0], jobs[1], jobs[3], jobs[2]]
    assert [item.job for item in queue.take(1000)] == [jobs[4]]
    queue, jobs = filled(loop, 40, 41, 42, 43, 46)
    assert [item.job for item in queue.take(1000)] == jobs[:4]  # 46 would pad four rows by 3


def test_where_nothing_pads_rows_of_any_length_go_in_order_of_age(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 40, 400, 3, 512, 57, 9, encoder=PACKING)
    assert [item.job for item in queue.take(500)] == [jobs[0], jobs[1], jobs[2], jobs[4]]  # 40 + 400 + 3 + 57
    assert [item.job for item in queue.take(500)] == [jobs[3]]  # above the budget, and then nothing beside it
    assert [item.job for item in queue.take(500)] == [jobs[5]]


@pytest.mark.parametrize("one", [ONE, PACKING])
def test_rows_of_different_heads_share_a_batch_and_encoders_do_not(
    loop: asyncio.AbstractEventLoop, one: Encoder
) -> None:
    queue = Queue(RUN_TOKENS)
    for head, encoder in [("a", one), ("x", OTHER), ("b", one), ("c", one)]:
        queue.push(make_job(loop, 20, head=head, encoder=encoder))
    assert [item.job.head for item in queue.take(1000)] == ["a", "b", "c"]
    assert [item.job.head for item in queue.take(1000)] == ["x"]


def test_a_row_above_the_budget_goes_alone(loop: asyncio.AbstractEventLoop) -> None:
    queue, _ = filled(loop, 512, 512)
    assert len(queue.take(100)) == 1
    assert len(queue.take(0)) == 1


def test_rows_of_one_request_go_into_several_batches(loop: asyncio.AbstractEventLoop) -> None:
    queue, job = Queue(RUN_TOKENS), make_job(loop, *[100] * 5)
    queue.push(job)
    assert [[item.index for item in queue.take(200)] for _ in range(3)] == [[0, 1], [2, 3], [4]]


def test_dropped_rows_count_no_more_and_never_run(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 10, 11, 12)
    assert queue.drop(jobs[0]) and not queue.drop(jobs[0])
    assert (queue.rows, queue.tokens) == (2, 23)
    assert [item.job for item in queue.take(1000)] == jobs[1:]
    assert (queue.rows, queue.tokens) == (0, 0)


def test_dropping_a_request_that_runs_in_part_drops_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    queue, job = Queue(RUN_TOKENS), make_job(loop, 50, 50, 50)
    queue.push(job)
    queue.take(50)
    queue.drop(job)
    assert (queue.rows, queue.tokens) == (0, 0) and queue.take(1000) == []


def test_clear_returns_what_is_still_wanted_once(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 10, 20)
    two_rows = make_job(loop, 5, 5)
    queue.push(two_rows)
    queue.drop(jobs[0])
    assert queue.clear() == [jobs[1], two_rows]
    assert (queue.rows, queue.tokens) == (0, 0)


lengths = st.lists(st.integers(1, 512), min_size=1, max_size=400)


@given(lengths=lengths, budget=st.integers(0, 4096), pads=st.booleans())
def test_every_batch_takes_the_oldest_and_keeps_the_budget_and_is_alike_if_it_pads(
    lengths: list[int], budget: int, pads: bool
) -> None:
    loop = asyncio.new_event_loop()
    queue, jobs = filled(loop, *lengths, encoder=ONE if pads else PACKING)
    left = list(jobs)
    while left:
        batch = queue.take(budget)
        assert batch[0].job is left[0]  # so that nothing waits for more batches than there were rows before it
        last = max(left.index(item.job) for item in batch)
        assert len(batch) == 1 or sum(job.tokens for job in left[:last]) < WINDOW * budget  # how far it may overtake
        tokens = sum(item.length for item in batch)
        assert len(batch) == 1 or (padded(batch) if pads else tokens) <= budget
        oldest = batch[0].length
        if pads:
            assert all(abs(item.length - oldest) <= RUN_TOKENS for item in batch)
            assert padded(batch) - tokens <= RUN_TOKENS * (len(batch) - 1)
        else:
            before = accumulate((job.tokens for job in left), initial=0)
            seen = [job for job, passed in zip(left, before, strict=False) if passed < WINDOW * budget]
            others = [job.tokens for job in seen if job not in [item.job for item in batch]]
            assert all(tokens + length > budget for length in others)  # nothing is left that would have fit
        left = [job for job in left if job not in [item.job for item in batch]]
        assert queue.rows == len(left) and queue.tokens == sum(job.tokens for job in left)
    loop.close()


@given(lengths=lengths, data=st.data())
def test_any_mix_of_push_take_and_drop_loses_and_repeats_nothing(lengths: list[int], data: st.DataObject) -> None:
    loop = asyncio.new_event_loop()
    queue, jobs = filled(loop, *lengths)
    dropped = data.draw(st.lists(st.sampled_from(jobs), unique_by=id, max_size=len(jobs)))
    for job in dropped:
        queue.drop(job)
    taken = list[Job]()
    while batch := queue.take(512):
        taken += [item.job for item in batch]
    assert sorted(map(id, taken)) == sorted(id(job) for job in jobs if job not in dropped)
    loop.close()
