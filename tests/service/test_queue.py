"""If this breaks, rows starve, batches pad more than they must, or the count of what waits is wrong."""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
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
RUN_TOKENS, TURN = 6, 96


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_job(loop: asyncio.AbstractEventLoop, *lengths: int, head: str = "a", encoder: Encoder = ONE) -> Job:
    calls = [(head, Row([number] * length, [0] * length, [0])) for number, length in enumerate(lengths)]
    now = time.monotonic()
    return Job(encoder, calls, Deadline(now + 60, 60), loop.create_future(), now)


def filled(loop: asyncio.AbstractEventLoop, *lengths: int, encoder: Encoder = ONE) -> tuple[Queue, list[Job]]:
    queue, jobs = Queue(RUN_TOKENS, TURN), [make_job(loop, length, encoder=encoder) for length in lengths]
    for job in jobs:
        queue.push(job)
    return queue, jobs


def padded(batch: Sequence[Item]) -> int:
    return max(item.length for item in batch) * len(batch)


def test_the_oldest_row_goes_first_with_rows_of_similar_length(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 40, 400, 41, 42, 395, 39)
    assert [item.job for item in queue.take(1000)] == [jobs[0], jobs[2], jobs[5], jobs[3]]
    assert [item.job for item in queue.take(1000)] == [jobs[1], jobs[4]]
    assert queue.take(1000) == [] and queue.rows == queue.tokens == 0


def test_a_row_whose_padding_costs_more_than_a_run_waits_for_its_own_batch(loop: asyncio.AbstractEventLoop) -> None:
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
    queue = Queue(RUN_TOKENS, TURN)
    for head, encoder in [("a", one), ("x", OTHER), ("b", one), ("c", one)]:
        queue.push(make_job(loop, 20, head=head, encoder=encoder))
    assert [item.job.calls[0][0] for item in queue.take(1000)] == ["a", "b", "c"]
    assert [item.job.calls[0][0] for item in queue.take(1000)] == ["x"]


def test_a_row_above_the_budget_goes_alone(loop: asyncio.AbstractEventLoop) -> None:
    queue, _ = filled(loop, 512, 512)
    assert len(queue.take(100)) == 1
    assert len(queue.take(0)) == 1


def test_rows_of_one_request_go_into_several_batches(loop: asyncio.AbstractEventLoop) -> None:
    queue, job = Queue(RUN_TOKENS, TURN), make_job(loop, *[100] * 5)
    queue.push(job)
    assert [[index for item in queue.take(200) for index in item.indices] for _ in range(3)] == [[0, 1], [2, 3], [4]]


def test_dropped_rows_no_longer_count_and_never_run(loop: asyncio.AbstractEventLoop) -> None:
    queue, jobs = filled(loop, 10, 11, 12)
    assert queue.drop(jobs[0]) and not queue.drop(jobs[0])
    assert (queue.rows, queue.tokens) == (2, 23)
    assert [item.job for item in queue.take(1000)] == jobs[1:]
    assert (queue.rows, queue.tokens) == (0, 0)


def test_dropping_a_request_that_runs_in_part_drops_the_rest(loop: asyncio.AbstractEventLoop) -> None:
    queue, job = Queue(RUN_TOKENS, TURN), make_job(loop, 50, 50, 50)
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


def job_of(loop: asyncio.AbstractEventLoop, lengths: Sequence[int], weight: float = 1.0) -> Job:
    job = make_job(loop, *lengths, encoder=PACKING)
    job.weight = weight
    return job


def pushed(queue: Queue, *jobs: Job) -> Queue:
    for job in jobs:
        queue.push(job)
    return queue


def served(batches: Iterable[list[Item]], *jobs: Job) -> list[list[int]]:
    """Return the tokens that each job was served by the end of each batch."""
    totals, found = dict.fromkeys(jobs, 0), list[list[int]]()
    for batch in batches:
        for item in batch:
            totals[item.job] += item.length
        found.append([totals[job] for job in jobs])
    return found


def taken(queue: Queue, budget: int) -> Iterator[list[Item]]:
    while batch := queue.take(budget):
        yield batch


def test_a_short_job_does_not_wait_for_a_long_one(loop: asyncio.AbstractEventLoop) -> None:
    long = [job_of(loop, [34] * 256) for _ in range(4)]
    queue = pushed(Queue(RUN_TOKENS, TURN), *long)
    for _ in range(5):
        queue.take(384)
    for _ in range(3):
        short = make_job(loop, 34, encoder=PACKING)
        queue.push(short)
        assert [item.job for item in queue.take(384)] == [short], "and its batch is no longer than it needs"
        assert sum(item.length for item in queue.take(384)) == 11 * 34


def test_a_flood_of_short_jobs_leaves_half_to_long_ones(loop: asyncio.AbstractEventLoop) -> None:
    long = job_of(loop, [34] * 256)
    queue = pushed(Queue(RUN_TOKENS, TURN), long)
    shares = []
    for number in range(40):
        pushed(queue, *(make_job(loop, 32, encoder=PACKING) for _ in range(12)))
        shares.append(sum(item.length for item in queue.take(384) if item.job is long))
        if number:
            assert abs(sum(shares) - 384 * len(shares) / 2) <= 2 * 384
    assert queue.rows > 240, "the rest of the flood"


def test_a_batch_in_which_no_job_ends_is_filled_up(loop: asyncio.AbstractEventLoop) -> None:
    queue = pushed(Queue(RUN_TOKENS, TURN), job_of(loop, [50] * 30), job_of(loop, [50] * 30))
    assert [len(batch) for batch in taken(queue, 400)] == [8] * 7 + [4]


def test_where_runs_are_costly_long_jobs_fill_the_batches_of_short_ones(loop: asyncio.AbstractEventLoop) -> None:
    long, short = job_of(loop, [34] * 100), make_job(loop, 34, encoder=PACKING)
    queue = pushed(Queue(64, TURN), long)
    queue.take(384)
    batch = pushed(queue, short).take(384)
    assert batch[0].job is short and 4 * 64 - 34 < sum(item.length for item in batch) <= 4 * 64


@given(
    first=st.lists(st.integers(1, 512), min_size=1, max_size=60),
    second=st.lists(st.integers(1, 512), min_size=1, max_size=60),
    others=st.lists(st.lists(st.integers(1, 512), min_size=1, max_size=30), max_size=3),
    budget=st.integers(1, 1024),
    weights=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 2),
)
def test_jobs_are_served_by_weight_while_both_wait(
    loop: asyncio.AbstractEventLoop,
    first: list[int],
    second: list[int],
    others: list[list[int]],
    budget: int,
    weights: tuple[float, float],
) -> None:
    """As by deficit round robin: within a turn and a row each, in tokens by weight, plus what one batch may reorder."""
    one, two = job_of(loop, first, weights[0]), job_of(loop, second, weights[1])
    queue = pushed(Queue(RUN_TOKENS, TURN), *(job_of(loop, lengths) for lengths in others), one, two)
    rows = [max(job.items, key=lambda item: item.length).length / job.weight for job in (one, two)]
    for (by_one, by_two), waits in served_while_waiting(queue, budget, one, two):
        if waits:
            assert abs(by_one / one.weight - by_two / two.weight) <= TURN + sum(rows) + budget / min(weights)
    assert queue.rows == queue.tokens == queue.first_tokens == 0


def test_one_turn_and_one_row_bound_the_difference(loop: asyncio.AbstractEventLoop) -> None:
    """With a budget of one token each row is a batch: the order is that of the turns alone."""
    one, two = job_of(loop, [40, 3, 90, 17] * 50), job_of(loop, [64] * 100)
    queue = pushed(Queue(RUN_TOKENS, TURN), one, two)
    differences = [abs(a - b) for (a, b), waits in served_while_waiting(queue, 1, one, two) if waits]
    assert len(differences) > 100 and max(differences) <= TURN + 90


def test_a_job_that_joins_does_not_catch_up(loop: asyncio.AbstractEventLoop) -> None:
    old = job_of(loop, [50] * 200)
    queue = pushed(Queue(RUN_TOKENS, TURN), old)
    for _ in range(10):
        queue.take(400)
    new, before = job_of(loop, [50] * 100), old.waiting_tokens
    pushed(queue, new)
    for _ in range(8):
        queue.take(400)
    assert abs((before - old.waiting_tokens) - (new.tokens - new.waiting_tokens)) <= TURN + 50


def test_weights_are_shares(loop: asyncio.AbstractEventLoop) -> None:
    light, heavy = job_of(loop, [40] * 300), job_of(loop, [40] * 300, weight=3.0)
    queue = pushed(Queue(RUN_TOKENS, TURN), light, heavy)
    by_light, by_heavy = served((queue.take(400) for _ in range(30)), light, heavy)[-1]
    assert by_heavy / by_light == pytest.approx(3, rel=0.1)


def served_while_waiting(queue: Queue, budget: int, *jobs: Job) -> Iterator[tuple[list[int], bool]]:
    """Yield what jobs have been served after each batch, and whether all of them wait for more than a first turn."""
    totals = dict.fromkeys(jobs, 0)
    for batch in taken(queue, budget):
        for item in batch:
            totals[item.job] = totals.get(item.job, 0) + item.length
        yield [totals[job] for job in jobs], all(job.rest and not job.first_tokens for job in jobs)


def test_equal_rows_of_a_job_are_one_row_that_counts_once(loop: asyncio.AbstractEventLoop) -> None:
    rows = [Row([1] * 30, [0] * 30, [0]), Row([2] * 30, [0] * 30, [0]), Row([1] * 30, [0] * 29 + [1], [0])]
    heads = ("a", "b", "c")
    job = Job(ONE, [(head, row) for head in heads for row in rows], Deadline(0, 60), loop.create_future(), 0)
    queue = pushed(Queue(RUN_TOKENS, TURN), job)
    assert (job.tokens, queue.tokens, queue.rows) == (90, 90, 3)
    assert [item.indices for item in queue.take(60)] == [[0, 3, 6], [1, 4, 7]]
    assert [item.indices for item in queue.take(60)] == [[2, 5, 8]]


def test_the_tokens_ahead_of_a_job_are_known(loop: asyncio.AbstractEventLoop) -> None:
    queue = Queue(RUN_TOKENS, TURN)
    single, double, long = job_of(loop, [40]), job_of(loop, [100, 60]), job_of(loop, [100] * 50)
    assert [queue.ahead_of(job) for job in (single, double, long)] == [0, 0, 0]
    pushed(queue, job_of(loop, [100] * 100), job_of(loop, [100] * 3))  # first turns: 200; the rest: 9900 and 200
    assert queue.ahead_of(single) == 200 + 200
    assert queue.ahead_of(double) == 200 + 200 + 200
    assert queue.ahead_of(long) == 200 + (4900 + 200) + 200
    queue.take(200)
    assert queue.first_tokens == 0 and queue.ahead_of(single) == 0
    assert queue.ahead_of(double) == 60 + 60 and queue.ahead_of(long) == 4900 + 200
    assert queue.ahead_of(job_of(loop, [100] * 50, weight=2.0)) == 2400 + 200


lengths = st.lists(st.integers(1, 512), min_size=1, max_size=400)


@given(lengths=lengths, budget=st.integers(0, 4096), pads=st.booleans())
def test_every_batch_takes_the_oldest_row_keeps_the_budget_and_has_similar_lengths_if_it_pads(
    loop: asyncio.AbstractEventLoop, lengths: list[int], budget: int, pads: bool
) -> None:
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


jobs_of_rows = st.lists(st.lists(st.integers(1, 512), min_size=1, max_size=12), min_size=1, max_size=60)


@given(lengths=jobs_of_rows, data=st.data())
def test_any_mix_of_push_take_and_drop_loses_and_repeats_nothing(
    loop: asyncio.AbstractEventLoop, lengths: list[list[int]], data: st.DataObject
) -> None:
    encoders = st.sampled_from([ONE, OTHER, PACKING])
    waiting = [make_job(loop, *each, encoder=data.draw(encoders)) for each in lengths]
    queue, jobs, pushed_jobs, dropped = Queue(RUN_TOKENS, TURN), list(waiting), list[Job](), set[Job]()
    rows = list[Item]()
    while waiting or queue.rows:
        step = data.draw(st.sampled_from(["push", "take", "take", "drop"]))
        if step == "push" and waiting:
            pushed_jobs.append(waiting.pop())
            queue.push(pushed_jobs[-1])
        elif step == "drop" and pushed_jobs:
            dropped.add(job := data.draw(st.sampled_from(pushed_jobs)))
            queue.drop(job)
        elif queue.rows:
            batch = queue.take(data.draw(st.integers(0, 1024)))
            assert batch and len({id(item.job.runner) for item in batch}) == 1
            assert not dropped & {item.job for item in batch}
            rows += batch
        wanted = [job for job in pushed_jobs if job not in dropped]
        assert queue.rows == sum(job.waiting for job in wanted)
        assert queue.tokens == sum(job.waiting_tokens for job in wanted)
        assert queue.first_tokens == sum(job.first_tokens for job in wanted)
    assert queue.take(1000) == []
    places = [(id(item.job), index) for item in rows for index in item.indices]
    assert len(set(places)) == len(places)
    every = {(id(job), index) for job in jobs if job not in dropped for index in range(len(job.calls))}
    assert every <= set(places)
