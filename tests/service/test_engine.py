"""If this breaks, requests hang, run for no client, fail because of others, or a dead engine looks alive."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest

from service.errors import InferenceFailed, Unavailable
from service.throughput import Throughput
from tests.service.engines import DEADLY, POISON, Steps, held, row, running, scenario, soon, submit, total, until


@scenario
async def test_rows_come_back_in_order() -> None:
    async with running(lanes=2, batch_tokens=20) as (engine, encoder):
        rows = [row(10, first) for first in range(20)]
        logits = await submit(engine, encoder, "a", rows, soon()).future
        assert [each[0, 0] for each in logits] == list(range(20))
        assert len(encoder.batches) >= 10


@scenario
async def test_rows_that_queued_meanwhile_share_a_batch_though_their_heads_differ() -> None:
    async with running() as (engine, encoder):
        blocker = await held(engine, encoder)
        jobs = [submit(engine, encoder, head, [row(30)], soon()) for head in ("ner", "qa", "nli")]
        assert total(engine, "queue_rows") == 3 and total(engine, "queue_tokens") == 90
        encoder.open.set()
        await asyncio.gather(blocker.future, *(job.future for job in jobs))
        assert encoder.batches[1] == [("ner", 30), ("qa", 30), ("nli", 30)]
        assert total(engine, "queue_rows") == 0 and total(engine, "batches_total") == 2
        assert jobs[0].queued_at <= jobs[0].started_at <= jobs[0].finished_at


@scenario
async def test_a_batch_counts_as_alone_if_no_other_lane_ran_beside_it_or_the_one_before() -> None:
    async with running(lanes=3) as (engine, encoder):

        async def run(*lengths: int) -> None:
            await until(lambda: engine._idle == 3)
            await submit(engine, encoder, "a", [row(length) for length in lengths], soon()).future

        await until(lambda: engine._idle == 3)
        encoder.open.clear()
        jobs = []
        for count in (1, 2, 3):
            jobs.append(submit(engine, encoder, "a", [row()], soon()))
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
        await submit(engine, encoder, "a", [row()], soon()).future
        assert encoder.alone == [], "there are no others whose cores it could use"


@scenario
async def test_throughput_is_measured_for_a_lane_beside_busy_ones() -> None:
    """Requests are refused by it under overload, and then no batch runs alone."""
    clock, expected = [time.monotonic()], Throughput(run_tokens=6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.engine.time", SimpleNamespace(monotonic=lambda: clock[0]))
        async with running(lanes=2) as (engine, encoder):
            for number, length in enumerate([5, 100, 5, 100, 100, 5]):
                await until(lambda: engine._idle == 2)
                encoder.open.clear()
                job = submit(engine, encoder, "a", [row(length)], soon())
                await until(lambda number=number: len(encoder.batches) == number + 1)  # type: ignore[misc]
                clock[0] += length / 100
                encoder.open.set()
                await job.future
                expected.add(length, length / 100 * encoder.gain(length))
            await until(lambda: engine._idle == 2)
            assert encoder.alone == [1, 3, 4]
            assert engine._throughput.tokens == pytest.approx(expected.tokens)
            assert engine._throughput.time == pytest.approx(expected.time)


@scenario
async def test_where_runs_pad_lengths_are_not_mixed_and_padding_is_counted() -> None:
    for pads, batches, padding in (True, [[100, 96], [20, 21]], 4 + 1), (False, [[100, 20, 96, 21]], 0):
        async with running() as (engine, encoder):
            encoder.pads = pads
            blocker = await held(engine, encoder)
            lengths = [100, 20, 96, 21]
            jobs = [submit(engine, encoder, "a", [row(length)], soon()) for length in lengths]
            encoder.open.set()
            await asyncio.gather(blocker.future, *(job.future for job in jobs))
            assert [[length for _, length in batch] for batch in encoder.batches[1:]] == batches
            assert total(engine, "padding_tokens_total") == padding
            assert total(engine, "batch_tokens_sum") == 3 + sum(lengths)


@scenario
async def test_a_short_request_runs_next_though_long_ones_wait() -> None:
    async with running(batch_tokens=100) as (engine, encoder):
        encoder.open = Steps(6)
        with engine._changed:  # all of them before the first batch
            long = [submit(engine, encoder, "long", [row(20) for _ in range(50)], soon()) for _ in range(4)]
        await until(lambda: len(encoder.batches) == 7)
        short = submit(engine, encoder, "short", [row(20)], soon())
        encoder.open.set()
        await short.future
        assert encoder.batches[7] == [("short", 20)]
        assert [len(logits) for logits in await asyncio.gather(*(job.future for job in long))] == [50] * 4


@scenario
async def test_a_request_for_several_heads_is_one_pass_and_its_answers_are_in_order() -> None:
    async with running(batch_tokens=60) as (engine, encoder):
        await held(engine, encoder)
        rows = [row(20, first) for first in range(5)]
        calls = [(head, each) for head in ("ner", "qa", "nli") for each in rows]
        job = engine.submit(encoder, calls, soon())
        encoder.open.set()
        logits = await job.future
        assert [each[0, 0] for each in logits] == [0, 1, 2, 3, 4] * 3
        for batch in encoder.batches[1:]:
            assert len(batch) % 3 == 0 and {head for head, _ in batch} == {"ner", "qa", "nli"}
        assert total(engine, "batch_tokens_sum") == 3 + 5 * 20


@scenario
async def test_a_long_request_never_takes_all_cores_while_others_wait() -> None:
    async with running(lanes=2, batch_tokens=100) as (engine, encoder):
        long = submit(engine, encoder, "a", [row(20) for _ in range(60)], soon())
        await long.future
        assert encoder.alone == []


@scenario
async def test_a_weight_is_a_share() -> None:
    async with running(batch_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        jobs = [
            submit(engine, encoder, head, [row(20) for _ in range(60)], soon(), weight)
            for head, weight in (("light", 1), ("heavy", 3))
        ]
        encoder.open.set()
        await asyncio.gather(*(job.future for job in jobs))
        half = [head for batch in encoder.batches[1:13] for head, _ in batch]
        assert 2.2 < half.count("heavy") / half.count("light") < 4


@scenario
async def test_the_time_of_lanes_is_counted() -> None:
    async with running(lanes=2) as (engine, encoder):
        job = await held(engine, encoder)
        await asyncio.sleep(0.05)
        encoder.open.set()
        await job.future
        await until(lambda: total(engine, "lane_busy_seconds_total") >= 0.05)


@scenario
async def test_free_lanes_share_the_waiting_rows() -> None:
    async with running(lanes=2) as (engine, encoder):
        await asyncio.sleep(0.05)  # both lanes are waiting
        encoder.open.clear()
        job = submit(engine, encoder, "a", [row(10) for _ in range(8)], soon())
        await until(lambda: len(encoder.batches) == 2)
        assert sorted(len(batch) for batch in encoder.batches) == [4, 4] and len(encoder.lanes) == 2
        encoder.open.set()
        await job.future


@scenario
async def test_a_long_row_is_not_overtaken_for_ever() -> None:
    async with running(batch_tokens=60) as (engine, encoder):
        await held(engine, encoder)
        before = [submit(engine, encoder, "a", [row(20)], soon()) for _ in range(6)]
        long = submit(engine, encoder, "a", [row(500)], soon())
        after = [submit(engine, encoder, "a", [row(20)], soon()) for _ in range(60)]
        encoder.open.set()
        await asyncio.gather(*(job.future for job in (*before, long, *after)))
        place = next(index for index, batch in enumerate(encoder.batches) if batch == [("a", 500)])
        assert place <= 1 + len(before)


@scenario
async def test_one_bad_row_fails_alone() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        good = [submit(engine, encoder, "a", [row(10, first)], soon()) for first in (1, 2)]
        bad = submit(engine, encoder, "a", [row(10), row(10, POISON)], soon())
        late = submit(engine, encoder, "b", [row(10, 3)], soon())
        encoder.open.set()
        answers = await asyncio.gather(*(job.future for job in (*good, late)))
        assert [logits[0][0, 0] for logits in answers] == [1, 2, 3]
        with pytest.raises(InferenceFailed) as failure:
            await bad.future
        assert "poison" not in failure.value.detail
        assert total(engine, "batch_failures_total") == 1 and engine.troubles() == []


@scenario
async def test_a_dead_lane_is_reported_and_its_requests_end() -> None:
    async with running(lanes=1) as (engine, encoder):
        await held(engine, encoder)
        deadly = submit(engine, encoder, "a", [row(10, DEADLY)], soon())
        waiting = submit(engine, encoder, "a", [row(400)], soon())
        encoder.open.set()
        for job in (deadly, waiting):
            with pytest.raises(Unavailable):
                await job.future
        assert "lane-0 died" in engine.troubles()[0] and total(engine, "lanes_alive") == 0
        with pytest.raises(Unavailable, match="no lane"):
            submit(engine, encoder, "a", [row(10)], soon())


@scenario
async def test_the_other_lane_goes_on() -> None:
    async with running(lanes=2) as (engine, encoder):
        with pytest.raises(Unavailable):
            await submit(engine, encoder, "a", [row(10, DEADLY)], soon()).future
        assert len(engine.troubles()) == 1
        assert await submit(engine, encoder, "a", [row(10)], soon()).future


@scenario
async def test_a_hanging_lane_is_reported() -> None:
    async with running(lane_timeout=0.05) as (engine, encoder):
        await held(engine, encoder)
        await until(lambda: bool(engine.troubles()))
        assert "one batch for more than 0.05 s" in engine.troubles()[0]
        encoder.open.set()
        await until(lambda: not engine.troubles())


@scenario
async def test_work_on_each_lane() -> None:
    """Before its next batch, while other lanes go on; and a lane survives what the work raises."""
    names: list[str] = []
    async with running(lanes=3) as (engine, encoder):
        blocker = await held(engine, encoder)
        done = asyncio.create_task(engine.on_each_lane(lambda: names.append(threading.current_thread().name)))
        await until(lambda: len(names) == 2)
        assert not done.done() and encoder.lanes.isdisjoint(names)
        waiting = submit(engine, encoder, "a", [row(400)], soon())
        encoder.open.set()
        await asyncio.gather(done, blocker.future, waiting.future)
        assert sorted(names) == ["lane-0", "lane-1", "lane-2"]
        with pytest.raises(ZeroDivisionError):
            await engine.on_each_lane(lambda: 1 // 0)
        assert await submit(engine, encoder, "a", [row(10)], soon()).future and engine.troubles() == []


@scenario
async def test_stopping_finishes_running_rows_and_gives_up_waiting_ones() -> None:
    async with running() as (engine, encoder):
        runs = await held(engine, encoder)
        waits = submit(engine, encoder, "a", [row(400)], soon())
        asyncio.get_running_loop().call_later(0.05, encoder.open.set)
        threading.Timer(0.05, encoder.open.set).start()
        engine.stop(5)
        assert len(await runs.future) == 1
        with pytest.raises(Unavailable, match="shutting down"):
            await waits.future
        with pytest.raises(Unavailable, match="shutting down"):
            submit(engine, encoder, "a", [row(10)], soon())
        assert total(engine, "dropped_total", reason="draining") == 1
