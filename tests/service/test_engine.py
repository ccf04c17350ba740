"""If this breaks, requests hang, run though nobody waits, fail for another's fault, or a dead engine looks alive."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from models.row import Row
from service.engine import MOST_LOGITS, Engine, Limits
from service.errors import ClientGone, DeadlinePassed, InferenceFailed, QueueFull, Unavailable, Unprocessable
from service.metrics import Metrics
from service.pace import Pace
from service.queue import Deadline, Job, Logits

POISON, DEADLY = 666, 999


class Encoder:
    """Answers each row with its ids; waits while `open` is cleared; remembers what it ran."""

    pads = True

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.batches: list[list[tuple[str, int]]] = []
        self.lanes: set[str] = set()
        self.alone: list[int] = []
        """Which of the batches were alone."""

    def gain(self, tokens: int) -> float:
        return 2.0 if tokens >= 10 else 1.0

    def run_alone(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        self.alone.append(len(self.batches))
        return self.run(items)

    def run(self, items: Sequence[tuple[str, Row]]) -> list[Logits]:
        self.batches.append([(head, len(row.input_ids)) for head, row in items])
        self.lanes.add(threading.current_thread().name)
        assert self.open.wait(20)
        ids = [row.input_ids for _, row in items]
        if any(POISON in each for each in ids):
            raise ValueError("poison")
        if any(DEADLY in each for each in ids):
            raise SystemExit("a bug below Exception")
        return [np.array([each], np.float32) for each in ids]


def row(length: int = 10, first: int = 7) -> Row:
    return Row([first] + [1] * (length - 1), [0] * length, [0])


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline(time.monotonic() + seconds, seconds)


@asynccontextmanager
async def running(
    lanes: int = 1, batch_tokens: int = 1000, queued_tokens: int = 10_000, lane_timeout: float = 60.0
) -> AsyncIterator[tuple[Engine, Encoder]]:
    engine, encoder = Engine(Limits(lanes, batch_tokens, 6, queued_tokens, lane_timeout), Metrics()), Encoder()
    engine.start()
    try:
        yield engine, encoder
    finally:
        encoder.open.set()
        engine.stop(5)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


def scenario(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine as a test."""

    def run() -> None:
        asyncio.run(test())  # type: ignore[arg-type]

    run.__name__ = test.__name__
    return run


def total(engine: Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"bertheads_{name}", labels) or 0.0


async def held(engine: Engine, encoder: Encoder) -> Job:
    """Keep the (one) lane busy with a row of 3 tokens."""
    encoder.open.clear()
    job = engine.submit(encoder, "blocker", [row(3)], soon())
    await until(lambda: len(encoder.batches) == 1)
    return job


@scenario
async def test_rows_come_back_in_order() -> None:
    async with running(lanes=2, batch_tokens=20) as (engine, encoder):
        rows = [row(10, first) for first in range(20)]
        logits = await engine.submit(encoder, "a", rows, soon()).future
        assert [each[0, 0] for each in logits] == list(range(20))
        assert len(encoder.batches) >= 10


@scenario
async def test_what_queued_meanwhile_rides_together_whatever_its_head() -> None:
    async with running() as (engine, encoder):
        blocker = await held(engine, encoder)
        jobs = [engine.submit(encoder, head, [row(30)], soon()) for head in ("ner", "qa", "nli")]
        assert total(engine, "queue_rows") == 3 and total(engine, "queue_tokens") == 90
        encoder.open.set()
        await asyncio.gather(blocker.future, *(job.future for job in jobs))
        assert encoder.batches[1] == [("ner", 30), ("qa", 30), ("nli", 30)]
        assert total(engine, "queue_rows") == 0 and total(engine, "batches_total") == 2
        assert jobs[0].queued_at <= jobs[0].started_at <= jobs[0].finished_at


@scenario
async def test_a_batch_is_alone_if_nothing_was_beside_it_nor_beside_the_one_before() -> None:
    async with running(lanes=3) as (engine, encoder):

        async def run(*lengths: int) -> None:
            await until(lambda: engine._idle == 3)
            await engine.submit(encoder, "a", [row(length) for length in lengths], soon()).future

        await until(lambda: engine._idle == 3)
        encoder.open.clear()
        jobs = []
        for count in (1, 2, 3):
            jobs.append(engine.submit(encoder, "a", [row()], soon()))
            await until(lambda count=count: len(encoder.batches) == count)  # type: ignore[misc]
        encoder.open.set()
        await asyncio.gather(*(job.future for job in jobs))
        await run(10)
        await run(10)
        await run(9)
        assert encoder.alone == [0, 4], "nine tokens would gain nothing"
        await run(10, 10, 10)
        assert encoder.alone == [0, 4], "its lane left rows for the others"
    async with running(lanes=1) as (engine, encoder):
        await engine.submit(encoder, "a", [row()], soon()).future
        assert encoder.alone == [], "there are no others whose cores it could use"


@scenario
async def test_the_pace_is_that_of_a_lane_among_others() -> None:
    """By it what is too much is refused, and then no batch is alone."""
    clock, expected = [time.monotonic()], Pace()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.time", SimpleNamespace(monotonic=lambda: clock[0]))
        async with running(lanes=2) as (engine, encoder):
            for number, length in enumerate([5, 100, 5, 100, 100, 5]):
                await until(lambda: engine._idle == 2)
                encoder.open.clear()
                job = engine.submit(encoder, "a", [row(length)], soon())
                await until(lambda number=number: len(encoder.batches) == number + 1)  # type: ignore[misc]
                clock[0] += length / 100
                encoder.open.set()
                await job.future
                expected.add(length, length / 100 * encoder.gain(length))
            await until(lambda: engine._idle == 2)
            assert encoder.alone == [1, 3, 4]
            assert engine._pace.tokens == pytest.approx(expected.tokens)
            assert engine._pace.time == pytest.approx(expected.time)


@scenario
async def test_where_runs_pad_lengths_are_not_mixed_and_padding_is_counted() -> None:
    async with running() as (engine, encoder):
        blocker = await held(engine, encoder)
        lengths = [100, 20, 96, 21]
        jobs = [engine.submit(encoder, "a", [row(length)], soon()) for length in lengths]
        encoder.open.set()
        await asyncio.gather(blocker.future, *(job.future for job in jobs))
        assert [[length for _, length in batch] for batch in encoder.batches[1:]] == [[100, 96], [20, 21]]
        assert total(engine, "padding_tokens_total") == 4 + 1
        assert total(engine, "batch_tokens_sum") == 3 + sum(lengths)


@scenario
async def test_an_encoder_that_pads_nothing_takes_any_lengths_at_once() -> None:
    async with running() as (engine, encoder):
        encoder.pads = False
        blocker = await held(engine, encoder)
        lengths = [100, 20, 96, 21]
        jobs = [engine.submit(encoder, "a", [row(length)], soon()) for length in lengths]
        encoder.open.set()
        await asyncio.gather(blocker.future, *(job.future for job in jobs))
        assert [[length for _, length in batch] for batch in encoder.batches[1:]] == [lengths]
        assert total(engine, "padding_tokens_total") == 0
        assert total(engine, "batch_tokens_sum") == 3 + sum(lengths)


@scenario
async def test_free_lanes_share_what_waits() -> None:
    async with running(lanes=2) as (engine, encoder):
        await asyncio.sleep(0.05)  # both lanes are waiting
        encoder.open.clear()
        job = engine.submit(encoder, "a", [row(10)] * 8, soon())
        await until(lambda: len(encoder.batches) == 2)
        assert sorted(len(batch) for batch in encoder.batches) == [4, 4] and len(encoder.lanes) == 2
        encoder.open.set()
        await job.future


@scenario
async def test_a_long_row_is_not_overtaken_for_ever() -> None:
    async with running(batch_tokens=60) as (engine, encoder):
        await held(engine, encoder)
        before = [engine.submit(encoder, "a", [row(20)], soon()) for _ in range(6)]
        long = engine.submit(encoder, "a", [row(500)], soon())
        after = [engine.submit(encoder, "a", [row(20)], soon()) for _ in range(60)]
        encoder.open.set()
        await asyncio.gather(*(job.future for job in (*before, long, *after)))
        place = next(index for index, batch in enumerate(encoder.batches) if batch == [("a", 500)])
        assert place <= 1 + len(before)


@scenario
async def test_a_deadline_in_the_queue_drops_the_row_before_it_runs() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        job = engine.submit(encoder, "a", [row(50)], soon())
        engine.expire(job)
        with pytest.raises(DeadlinePassed, match="passed in queue"):
            await job.future
        assert total(engine, "queue_tokens") == 0 and total(engine, "dropped_total", reason="deadline") == 1
        encoder.open.set()
        await asyncio.sleep(0.05)
        assert encoder.batches == [[("blocker", 3)]]


@scenario
async def test_a_deadline_while_running_is_answered_at_once_and_says_where() -> None:
    async with running() as (engine, encoder):
        job = await held(engine, encoder)
        engine.expire(job)
        with pytest.raises(DeadlinePassed, match="passed in encode"):
            await job.future
        encoder.open.set()
        assert (await engine.submit(encoder, "a", [row(4)], soon()).future)[0].shape == (1, 4)


@scenario
async def test_a_client_that_left_is_not_computed() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        gone = engine.submit(encoder, "a", [row(50)] * 3, soon())
        kept = engine.submit(encoder, "b", [row(50)], soon())
        engine.give_up(gone, "client_gone", ClientGone("gone"))
        engine.give_up(gone, "client_gone", ClientGone("twice"))
        encoder.open.set()
        await kept.future
        assert encoder.batches[1:] == [[("b", 50)]]
        assert total(engine, "dropped_total", reason="client_gone") == 1


@scenario
async def test_a_cancelled_waiter_frees_its_place() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        job = engine.submit(encoder, "a", [row(50)], soon())
        job.future.cancel()
        engine.give_up(job, "draining", ClientGone("cut"))
        assert total(engine, "queue_tokens") == 0


@scenario
async def test_one_bad_row_fails_alone() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        good = [engine.submit(encoder, "a", [row(10, first)], soon()) for first in (1, 2)]
        bad = engine.submit(encoder, "a", [row(10), row(10, POISON)], soon())
        late = engine.submit(encoder, "b", [row(10, 3)], soon())
        encoder.open.set()
        answers = await asyncio.gather(*(job.future for job in (*good, late)))
        assert [logits[0][0, 0] for logits in answers] == [1, 2, 3]
        with pytest.raises(InferenceFailed) as failure:
            await bad.future
        assert "poison" not in failure.value.detail
        assert total(engine, "batch_failures_total") == 1 and engine.troubles() == []


@scenario
async def test_admission_counts_tokens_alike_for_one_row_and_for_many() -> None:
    async with running(queued_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        engine.submit(encoder, "a", [row(60)], soon())
        for rows in ([row(41)], [row(20), row(21)]):
            with pytest.raises(QueueFull) as refusal:
                engine.submit(encoder, "a", rows, soon())
            assert int(refusal.value.headers["Retry-After"]) >= 1
        engine.submit(encoder, "a", [row(20), row(20)], soon())
        assert total(engine, "queue_tokens") == 100


@scenario
async def test_logits_that_are_kept_are_bounded() -> None:
    async with running() as (engine, _):
        with engine.keeping(MOST_LOGITS - 10):
            with pytest.raises(QueueFull, match="11 more would exceed") as refusal, engine.keeping(11):
                raise AssertionError("it was let in")
            assert int(refusal.value.headers["Retry-After"]) >= 1
            with engine.keeping(10):
                pass
        with engine.keeping(MOST_LOGITS):
            pass
        with pytest.raises(Unprocessable, match="send fewer texts or masks"), engine.keeping(MOST_LOGITS + 1):
            raise AssertionError("it was let in")


@scenario
async def test_what_would_be_late_is_refused_at_once_and_told_when_to_come_back() -> None:
    async with running(batch_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        engine._pace.add(10, 1.0)  # 10 tokens a second; 3 run
        engine.submit(encoder, "a", [row(100)], soon(5))  # nothing waits: only a batch can tell how fast lanes are now
        engine.submit(encoder, "a", [row(97)], soon(33.5))  # 200 tokens and a batch more, 30 s
        with pytest.raises(QueueFull, match="197 tokens wait, and 30 more would be 2.8 s late") as refusal:
            engine.submit(encoder, "a", [row(30)], soon(33.5))  # 33 s, and the margin
        assert refusal.value.headers["Retry-After"] == "3"
        with pytest.raises(QueueFull, match="400 tokens take 40 s by themselves, but the deadline") as refusal:
            engine.submit(encoder, "a", [row(200), row(200)], soon(30))
        assert "Retry-After" not in refusal.value.headers  # it would be late then too
        with pytest.raises(QueueFull, match="and 0 more would be"):
            engine.check_room(0, soon(32))
        engine.check_room(0, soon(34))
        assert total(engine, "queue_tokens") == 197


@scenario
async def test_what_would_be_finished_too_late_does_not_run_but_the_last_does() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        late = [engine.submit(encoder, "late", [row(100)], soon(2)) for _ in range(3)]
        good = engine.submit(encoder, "good", [row(200)], soon(100))
        engine._pace.add(10, 1.0)  # 10 tokens a second
        encoder.open.set()
        for job in late:
            with pytest.raises(DeadlinePassed, match="deadline of 2 s passed in queue"):
                await job.future
        await good.future
        assert encoder.batches[1:] == [[("good", 200)]] and total(engine, "dropped_total", reason="deadline") == 3
        engine._pace.add(10_000, 100_000.0)
        assert await engine.submit(encoder, "a", [row(10)], soon(2)).future


@scenario
async def test_what_could_never_be_admitted_is_not_asked_to_retry() -> None:
    async with running(queued_tokens=100) as (engine, encoder):
        with pytest.raises(Unprocessable, match=r"102 tokens.* 100 "):
            engine.submit(encoder, "a", [row(51), row(51)], soon())


@scenario
async def test_a_dead_lane_shows_and_its_requests_end() -> None:
    async with running(lanes=1) as (engine, encoder):
        await held(engine, encoder)
        deadly = engine.submit(encoder, "a", [row(10, DEADLY)], soon())
        waiting = engine.submit(encoder, "a", [row(400)], soon())
        encoder.open.set()
        for job in (deadly, waiting):
            with pytest.raises(Unavailable):
                await job.future
        assert "lane-0 died" in engine.troubles()[0] and total(engine, "lanes_alive") == 0
        with pytest.raises(Unavailable, match="no lane"):
            engine.submit(encoder, "a", [row(10)], soon())


@scenario
async def test_the_other_lane_goes_on() -> None:
    async with running(lanes=2) as (engine, encoder):
        with pytest.raises(Unavailable):
            await engine.submit(encoder, "a", [row(10, DEADLY)], soon()).future
        assert len(engine.troubles()) == 1
        assert await engine.submit(encoder, "a", [row(10)], soon()).future


@scenario
async def test_a_lane_that_hangs_shows() -> None:
    async with running(lane_timeout=0.05) as (engine, encoder):
        await held(engine, encoder)
        await until(lambda: bool(engine.troubles()))
        assert "one batch for more than 0.05 s" in engine.troubles()[0]
        encoder.open.set()
        await until(lambda: not engine.troubles())


@scenario
async def test_stopping_finishes_what_runs_and_gives_up_what_waits() -> None:
    async with running() as (engine, encoder):
        runs = await held(engine, encoder)
        waits = engine.submit(encoder, "a", [row(400)], soon())
        asyncio.get_running_loop().call_later(0.05, encoder.open.set)
        threading.Timer(0.05, encoder.open.set).start()
        engine.stop(5)
        assert len(await runs.future) == 1
        with pytest.raises(Unavailable, match="shutting down"):
            await waits.future
        with pytest.raises(Unavailable, match="shutting down"):
            engine.submit(encoder, "a", [row(10)], soon())
        assert total(engine, "dropped_total", reason="draining") == 1
