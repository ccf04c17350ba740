"""If this breaks, requests that cannot be answered in time run or wait, and fill the memory."""

import asyncio

import pytest

from models.task import MAX_LOGITS
from service.errors import ClientGone, DeadlinePassed, QueueFull, Unprocessable
from tests.service.engines import held, row, running, scenario, soon, submit, total


@scenario
async def test_a_deadline_in_the_queue_drops_the_row_before_it_runs() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        job = submit(engine, encoder, "a", [row(50)], soon())
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
        assert (await submit(engine, encoder, "a", [row(4)], soon()).future)[0].shape == (1, 4)


@scenario
async def test_a_request_whose_client_left_is_not_computed() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        gone = submit(engine, encoder, "a", [row(50) for _ in range(3)], soon())
        kept = submit(engine, encoder, "b", [row(50)], soon())
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
        job = submit(engine, encoder, "a", [row(50)], soon())
        job.future.cancel()
        engine.give_up(job, "draining", ClientGone("cut"))
        assert total(engine, "queue_tokens") == 0


@scenario
async def test_admission_counts_tokens_alike_for_one_row_and_for_many() -> None:
    async with running(queued_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        submit(engine, encoder, "a", [row(60)], soon())
        for rows in ([row(41)], [row(20), row(21)]):
            with pytest.raises(QueueFull) as refusal:
                submit(engine, encoder, "a", rows, soon())
            assert int(refusal.value.headers["Retry-After"]) >= 1
        submit(engine, encoder, "a", [row(20), row(20)], soon())
        assert total(engine, "queue_tokens") == 100


@scenario
async def test_logits_that_are_kept_are_bounded() -> None:
    async with running() as (engine, _):
        with engine.keeping(MAX_LOGITS - 10):
            with pytest.raises(QueueFull, match="11 more would exceed") as refusal, engine.keeping(11):
                raise AssertionError("it was let in")
            assert int(refusal.value.headers["Retry-After"]) >= 1
            with engine.keeping(10):
                pass
        with engine.keeping(MAX_LOGITS):
            pass
        with pytest.raises(Unprocessable, match="send fewer texts or masks"), engine.keeping(MAX_LOGITS + 1):
            raise AssertionError("it was let in")


@scenario
async def test_a_request_that_would_be_late_is_refused_at_once_with_a_time_to_retry() -> None:
    async with running(batch_tokens=100, run_tokens=0) as (engine, encoder):
        await held(engine, encoder)
        engine._throughput.add(10, 1.0)  # 10 tokens per second; 3 run
        submit(engine, encoder, "a", [row(100)], soon(5))  # nothing waits: only a batch can tell how fast lanes are now
        submit(engine, encoder, "a", [row(97)], soon(33.5))  # 200 tokens and a batch more, 30 s
        with pytest.raises(QueueFull, match="197 tokens wait, and 30 more would be 2.8 s late") as refusal:
            submit(engine, encoder, "a", [row(30)], soon(33.5))  # 33 s, and the margin
        assert refusal.value.headers["Retry-After"] == "3"
        with pytest.raises(QueueFull, match="400 tokens take 40 s by themselves, but the deadline") as refusal:
            submit(engine, encoder, "a", [row(200), row(200)], soon(30))
        assert "Retry-After" not in refusal.value.headers  # it would be late then too
        with pytest.raises(QueueFull, match="and 0 more would be"):
            engine.check_room(0, soon(32))
        engine.check_room(0, soon(34))
        assert total(engine, "queue_tokens") == 197


@scenario
async def test_rows_that_would_finish_too_late_do_not_run_but_the_last_does() -> None:
    async with running() as (engine, encoder):
        await held(engine, encoder)
        late = [submit(engine, encoder, "late", [row(100)], soon(2)) for _ in range(3)]
        good = submit(engine, encoder, "good", [row(200)], soon(100))
        engine._throughput.add(10, 1.0)  # 10 tokens per second
        encoder.open.set()
        for job in late:
            with pytest.raises(DeadlinePassed, match="deadline of 2 s passed in queue"):
                await job.future
        await good.future
        assert encoder.batches[1:] == [[("good", 200)]] and total(engine, "dropped_total", reason="deadline") == 3
        engine._throughput.add(10_000, 100_000.0)
        assert await submit(engine, encoder, "a", [row(10)], soon(2)).future


@scenario
async def test_a_request_that_could_never_be_admitted_is_not_told_to_retry() -> None:
    async with running(queued_tokens=100) as (engine, encoder):
        with pytest.raises(Unprocessable, match=r"102 tokens.* 100 "):
            submit(engine, encoder, "a", [row(51), row(51)], soon())


@scenario
async def test_the_time_that_a_request_may_wait_for_others_is_bounded() -> None:
    async with running(batch_tokens=100, queue_seconds=30.0, run_tokens=0) as (engine, encoder):
        await held(engine, encoder)
        engine._throughput.add(10, 1.0)  # 10 tokens per second; 3 run
        submit(engine, encoder, "a", [row(100)], soon(3600))
        engine.check_room(0, soon(3600))
        submit(engine, encoder, "a", [row(69)], soon(3600))  # behind 203 tokens, 22 s
        submit(engine, encoder, "a", [row(10)], soon(3600))  # behind 272 tokens, 29.9 s
        for refused in (
            lambda: engine.check_room(0, soon(3600)),
            lambda: submit(engine, encoder, "a", [row(1)], soon(3600)),
        ):
            with pytest.raises(QueueFull, match="the wait would be 31 s, but at most 30 s is allowed") as refusal:
                refused()
            assert refusal.value.headers["Retry-After"] in ("1", "2")
        submit(engine, encoder, "a", [row(20)], soon(3600))  # computes for 2 s, and may wait for 8 s more


@scenario
async def test_long_requests_leave_room_for_short_ones_and_for_other_long_ones() -> None:
    async with running(batch_tokens=100, queue_seconds=35.0, queued_tokens=100_000, run_tokens=0) as (engine, encoder):
        await held(engine, encoder)
        engine._throughput.add(10, 1.0)
        for _ in range(4):
            submit(engine, encoder, "a", [row(25) for _ in range(400)], soon(36_000))
        engine.check_room(0, soon(40))
        submit(engine, encoder, "a", [row(20)], soon(40))  # waits for four first turns, and as much of their rest
        with pytest.raises(QueueFull, match="late"):
            submit(engine, encoder, "a", [row(25) for _ in range(400)], soon(4000))  # half of what the five take
        with pytest.raises(QueueFull, match="the wait would be"):
            submit(engine, encoder, "a", [row(25) for _ in range(400)], soon(36_000))


@scenario
async def test_a_huge_request_alone_is_admitted_up_to_the_limit_of_tokens() -> None:
    async with running(queue_seconds=0.001, queued_tokens=5000) as (engine, encoder):
        await held(engine, encoder)
        engine._throughput.add(10, 1.0)
        submit(engine, encoder, "a", [row(50) for _ in range(100)], soon(3600))
        assert total(engine, "queue_tokens") == 5000


@scenario
async def test_a_request_that_cannot_finish_is_given_up_before_its_deadline() -> None:
    async with running(batch_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        late = submit(engine, encoder, "late", [row(50) for _ in range(40)], soon(60))
        good = submit(engine, encoder, "good", [row(50) for _ in range(40)], soon(3600))
        engine._throughput.add(10, 1.0)  # 2000 tokens take 200 s
        encoder.open.set()
        with pytest.raises(DeadlinePassed):
            await late.future
        assert len(await good.future) == 40
        assert sum(head == "late" for batch in encoder.batches for head, _ in batch) <= 4


@scenario
async def test_equal_rows_of_a_request_count_once() -> None:
    async with running(queued_tokens=100) as (engine, encoder):
        await held(engine, encoder)
        rows = [row(50), row(40)]
        job = engine.submit(encoder, [(head, each) for head in "abc" for each in rows], soon())
        assert total(engine, "queue_tokens") == job.tokens == 90 and total(engine, "queue_rows") == 2
