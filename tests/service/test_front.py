"""If this breaks, a front gives other answers than a service without fronts, or hangs when an engine process ends."""

import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from models.errors import BundleError
from service.engine import Engine
from service.errors import ClientGone, DeadlinePassed, ServiceError, SettingsError, Unavailable, problem
from service.front import Engines, Handle
from service.link import LOST, SentJob
from service.queue import Deadline
from tests.service.devices import BUNDLE, Told, device, front, lose_connections, ready, refuse_what_is_served
from tests.service.engines import DEADLY, POISON, row, running, soon, until


def scenario(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine as a test, with its fixtures."""

    @wraps(test)
    def run(**fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**fixtures), 60))

    return run


async def blocked(engines: Engines, handle: Handle, encoder: Told) -> SentJob:
    """Keep a lane busy with a row of 3 tokens."""
    encoder.open.clear()
    before = len(encoder.batches)
    job = engines.submit(handle, [("c", row(3))], soon(1e6))
    await until(lambda: len(encoder.batches) > before)
    return job


def counted(engine: Engines | Engine, name: str, **labels: str) -> float:
    return engine.metrics.registry.get_sample_value(f"bertheads_{name}", labels) or 0.0


async def error_of(job: Any) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        await job.future
    return raised.value


@scenario
async def test_rows_of_several_heads_come_back_in_order(tmp_path: Path) -> None:
    async with device(tmp_path, batch_tokens=512) as (process, encoder), front(tmp_path) as (engines, handle):
        assert (handle.precision, handle.provider, handle.max_length, handle.pads, handle.is_wide) == (
            *("fp32", "cpu", 512, True, False),
        )
        assert handle.gain(512) == 2.0 and handle.gain(511) == 1.0
        rows = [row(40, first) for first in range(100)]
        job = engines.submit(handle, [(head, each) for head in "ab" for each in rows], soon(1e6))
        logits = await job.future
        assert [each[0, 0] for each in logits] == [*range(100)] * 2
        assert job.queued_at <= job.started_at <= job.finished_at and job.tokens == 100 * 40
        assert len(encoder.batches) >= 8 and {head for batch in encoder.batches for head, _ in batch} == {"a", "b"}
        assert not process.engine._queue.rows and not engines._links[0].jobs and not engines._links[0].tokens


REFUSALS: dict[str, Callable[[Any, Any], Any]] = {
    "too much": lambda engine, runner: engine.submit(runner, [("a", row(9)) for _ in range(200)], soon(1e6)),
    "full": lambda engine, runner: engine.submit(runner, [("a", row(30)) for _ in range(40)], soon(1e6)),
    "failed": lambda engine, runner: engine.submit(runner, [("a", row(9, POISON))], soon(1e6)),
    "deadline": lambda engine, runner: engine.submit(runner, [("a", row(9))], Deadline(time.monotonic() + 0.2, 0.2)),
}


@pytest.mark.parametrize("case", REFUSALS)
@scenario
async def test_an_error_is_the_one_that_a_service_without_fronts_answers(tmp_path: Path, case: str) -> None:
    found = []
    async with running(queued_tokens=1500) as (engine, encoder):
        found.append(await refused(engine, encoder, encoder, case))
    async with (
        device(tmp_path, max_queued_tokens=1500) as (_, told),
        front(tmp_path, max_queued_tokens=1500) as (
            engines,
            handle,
        ),
    ):
        found.append(await refused(engines, handle, told, case))
    assert problem(found[0], "id") == problem(found[1], "id") and found[0].headers == found[1].headers
    assert type(found[0]) is type(found[1])


async def refused(engine: Any, runner: Any, encoder: Any, case: str) -> ServiceError:
    """Return the error of a case, which comes beside a batch that runs and 500 tokens that wait."""
    encoder.open.clear()
    running = engine.submit(runner, [("a", row(3))], soon(1e6))
    await until(lambda: len(encoder.batches) == 1)
    waiting = engine.submit(runner, [("a", row(20)) for _ in range(25)], soon(1e6))
    try:
        job = REFUSALS[case](engine, runner)
    except ServiceError as error:
        found = error
    else:
        if case == "deadline":
            asyncio.get_running_loop().call_later(0.2, engine.expire, job)
        else:
            asyncio.get_running_loop().call_later(0.2, encoder.open.set)
        found = await error_of(job)
    encoder.open.set()
    await asyncio.gather(running.future, waiting.future)
    return found


@scenario
async def test_rows_that_nobody_waits_for_leave_the_queue(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        blocker = await blocked(engines, handle, encoder)
        jobs = [engines.submit(handle, [("a", row(30))], soon(1e6)) for _ in range(3)]
        await until(lambda: process.engine.waiting == 3 and engines.waiting == 3)
        engines.give_up(jobs[0], "client_gone", ClientGone("the client left"))
        engines.give_up(jobs[0], "client_gone", ClientGone("the client left"))
        engines.expire(jobs[1])
        assert isinstance(await error_of(jobs[0]), ClientGone)
        assert (await error_of(jobs[1])).where == "queue"  # type: ignore[attr-defined]
        await until(lambda: process.engine.waiting == 1)
        engines.expire(blocker)
        assert (await error_of(blocker)).where == "encode"  # type: ignore[attr-defined]
        encoder.open.set()
        assert len(await jobs[2].future) == 1
        engines.give_up(jobs[2], "client_gone", ClientGone("too late"))
        engines.expire(jobs[2])
        for reason, count in ("client_gone", 1), ("deadline", 2):
            assert counted(process.engine, "dropped_total", reason=reason) == count
            assert counted(engines, "dropped_total", reason=reason) == 0, "it is counted once"


@scenario
async def test_a_cancelled_request_is_dropped_too(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        await blocked(engines, handle, encoder)
        jobs = [engines.submit(handle, [("a", row(30))], soon(1e6)) for _ in range(2)]
        await until(lambda: process.engine.waiting == 2)
        jobs[1].future.cancel()
        engines.give_up(jobs[1], "draining", ClientGone("the server cut the connection"))
        await until(lambda: process.engine.waiting == 1)


@scenario
async def test_a_deadline_holds_though_the_engine_process_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.front.MAX_GRACE", 0.05)
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        (connection,) = process.connections
        monkeypatch.setattr(connection, "data_received", lambda data: None)
        job = engines.submit(handle, [("a", row(30))], soon(0.1))
        engines.expire(job)
        assert isinstance(await error_of(job), DeadlinePassed)
        monkeypatch.setattr("service.link.MAX_SILENCE", -1.0)
        assert "silent" in engines.obstacles()[0]


@scenario
async def test_an_engine_process_that_ends_ends_its_requests_and_comes_back(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        jobs = [await blocked(engines, handle, encoder)]
        jobs += [engines.submit(handle, [("a", row(30))], soon(1e6)) for _ in range(2)]
        await until(lambda: process.engine.waiting == 2)
        lose_connections(process)
        for job in jobs:
            error = await error_of(job)
            assert isinstance(error, Unavailable) and error.detail == LOST and error.headers["Retry-After"] == "1"
        assert "is starting" in engines.obstacles()[0] and engines.troubles() == []
        with pytest.raises(Unavailable, match="is starting") as refusal:
            engines.submit(handle, [("a", row(30))], soon(1e6))
        assert refusal.value.headers["Retry-After"] == "1"
        engines.check_room(10, soon(1e6))
        assert process.engine.waiting == 0, "what it waited for is dropped"
        encoder.open.set()
        await ready(engines)
        assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1
        assert counted(engines, "dropped_total", reason="lane") == 3


@scenario
async def test_a_bundle_that_a_new_engine_process_cannot_open_is_reported_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.REOPEN_SECONDS", 0.05)
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        again: list[bool] = []
        engines.load_again = lambda: again.append(True)
        await refuse_what_is_served(process, engines)
        with pytest.raises(Unavailable, match="nowhere has changed"):
            engines.submit(handle, [("a", row(30))], soon(1e6))
        await asyncio.sleep(0.2)
        assert again == [True], "what is on disk is asked for once"
        process.sessions.error = None  # type: ignore[attr-defined]
        other = await asyncio.to_thread(engines.open, BUNDLE)  # what was asked for is opened though the old one is not
        assert other.number in engines.live
        await ready(engines)
        assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1


@scenario
async def test_a_front_is_ready_as_soon_as_another_bundle_replaced_the_refused_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.REOPEN_SECONDS", 1e6)
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        await refuse_what_is_served(process, engines)
        process.sessions.error = None  # type: ignore[attr-defined]
        other = await asyncio.to_thread(engines.open, BUNDLE)
        assert engines.obstacles() == ["nowhere has changed"], "it is still served"
        del handle
        await ready(engines)
        assert len(await engines.submit(other, [("b", row(30))], soon(1e6)).future) == 1


@scenario
async def test_a_refused_bundle_is_tried_again_at_the_next_engine_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.link.REOPEN_SECONDS", 1e6)
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        await refuse_what_is_served(process, engines)
        process.sessions.error = None  # type: ignore[attr-defined]
        lose_connections(process)
        await ready(engines)
        assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1


@scenario
async def test_a_bundle_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        for error, sentence in (BundleError("it has no int8"), "^it has no int8$"), (OSError("x"), "loading failed: x"):
            process.sessions.error = error  # type: ignore[attr-defined]
            with pytest.raises(BundleError, match=sentence):
                await asyncio.to_thread(engines.open, BUNDLE)
        assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1


ALONE = """
import sys
from pathlib import Path
from service.listener import listen
from service.server import serve
from service.settings import Settings
settings = Settings(port=0, drain_delay=0)
listener = listen(settings.host, settings.port)
sys.exit(serve(settings, listener, sys.argv[1] == "True", devices=[Path("nowhere/0.socket")]))
"""


@pytest.mark.parametrize("load_first", [False, True])
def test_a_front_ends_soon_though_no_engine_process_comes_up(load_first: bool) -> None:
    command = [sys.executable, "-c", ALONE, str(load_first)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr and any("warming bundle" in line for line in process.stderr)
            process.terminate()
            assert process.wait(20) == 0, process.stderr.read()
        finally:
            process.kill()


@scenario
async def test_a_front_that_ends_loses_its_own_requests_only(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        async with front(tmp_path) as (other, its):
            await blocked(engines, handle, encoder)
            jobs = [each.submit(of, [("a", row(30))], soon(1e6)) for each, of in ((engines, handle), (other, its)) * 3]
            await until(lambda: process.engine.waiting == 6)
            assert other._links[0]._transport
            other._links[0]._transport.abort()
            await until(lambda: process.engine.waiting == 3)
            encoder.open.set()
            assert [len(await job.future) for job in jobs[::2]] == [1] * 3
            assert [(await error_of(job)).detail for job in jobs[1::2]] == [LOST] * 3


@scenario
async def test_a_front_that_stops_answers_requests_in_flight(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder), front(tmp_path) as (engines, handle):
        await blocked(engines, handle, encoder)
        job = engines.submit(handle, [("a", row(30))], soon(1e6))
        await until(lambda: process.engine.waiting == 1)
        engines.stop(1)
        assert "shutting down" in (await error_of(job)).detail
        with pytest.raises(Unavailable, match="shutting down"):
            engines.submit(handle, [("a", row(30))], soon(1e6))
        with pytest.raises(SettingsError, match="shutting down"):
            engines._links[0].ready = False
            await asyncio.to_thread(engines.open, BUNDLE)
        await until(lambda: not process.connections and process.engine.waiting == 0)


@scenario
async def test_fronts_share_one_queue_by_weight(tmp_path: Path) -> None:
    async with device(tmp_path, batch_tokens=512) as (process, encoder), front(tmp_path) as (one, of_one):
        async with front(tmp_path) as (two, of_two):
            encoder.open.clear()
            blocker = one.submit(of_one, [("c", row(3))], soon(1e6))
            await until(lambda: len(encoder.batches) == 1)
            light = one.submit(of_one, [("a", row(20)) for _ in range(200)], soon(1e6), 1.0)
            heavy = two.submit(of_two, [("b", row(20)) for _ in range(200)], soon(1e6), 3.0)
            await until(lambda: process.engine.waiting == 400)
            encoder.open.set()
            await asyncio.gather(blocker.future, light.future, heavy.future)
            early = [head for batch in encoder.batches[2:9] for head, _ in batch]
            assert 2 < early.count("b") / early.count("a") < 4.5


@scenario
async def test_a_front_refuses_by_the_queue_of_the_engine_process(tmp_path: Path) -> None:
    limits = {"max_queued_tokens": 600}
    async with device(tmp_path, **limits) as (process, encoder), front(tmp_path, **limits) as (engines, handle):
        async with front(tmp_path, **limits) as (other, its):
            jobs = [await blocked(engines, handle, encoder)]
            jobs += [engines.submit(handle, [("a", row(30))], soon(1e6)) for _ in range(15)]
            await until(lambda: process.engine.waiting == 15)
            other.check_room(150, soon(1e6))
            with pytest.raises(ServiceError, match="450 tokens wait, and 151 more would exceed 600"):
                other.check_room(151, soon(1e6))
            error = await error_of(other.submit(its, [("a", row(151))], soon(1e6)))
            assert "450 tokens wait, and 151 more would exceed 600" in error.detail
            encoder.open.set()
            await asyncio.gather(*(job.future for job in jobs))


@scenario
async def test_scores_are_kept_within_a_share_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.keeper.MAX_LOGITS", 1000)
    async with device(tmp_path), front(tmp_path, fronts=4) as (engines, _):
        with engines.keeping(1000), pytest.raises(ServiceError, match="1000 scores are kept, and 1 more would exceed"):
            with engines.keeping(1):
                pass
        with engines.keeping(200), engines.keeping(50), pytest.raises(ServiceError, match="would exceed 250"):
            with engines.keeping(1):
                pass
        with pytest.raises(ServiceError, match="at most 1000 are kept"), engines.keeping(1001):
            pass


@scenario
async def test_requests_go_to_the_least_loaded_device(tmp_path: Path) -> None:
    async with device(tmp_path, 0) as (first, one), device(tmp_path, 1) as (second, two):
        async with front(tmp_path, devices=2) as (engines, handle):
            await ready(engines)
            jobs = [await blocked(engines, handle, each) for each in (one, two)]
            jobs += [engines.submit(handle, [("a", row(30))], soon(1e6)) for _ in range(8)]
            await until(lambda: first.engine.waiting == second.engine.waiting == 4)
            for connection in first.connections:
                connection.abort()
            await until(lambda: not engines._links[0].ready)
            assert engines.obstacles() == [], "one device is left"
            job = engines.submit(handle, [("a", row(30))], soon(1e6))
            await until(lambda: second.engine.waiting == 5)
            one.open.set()
            two.open.set()
            found = await asyncio.gather(job.future, *(each.future for each in jobs), return_exceptions=True)
            assert sum(isinstance(each, Unavailable) for each in found) == 5
            await ready(engines)
            assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1


@scenario
async def test_a_bundle_that_nobody_holds_is_dropped(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        again = await asyncio.to_thread(engines.open, BUNDLE, handle)
        users: Any = process.sessions
        assert users.users == 2 and set(engines.live) == {1, 2}
        del again
        gc.collect()
        await until(lambda: users.users == 1)
        assert len(await engines.submit(handle, [("b", row(30))], soon(1e6)).future) == 1
        lose_connections(process)
        await until(lambda: users.users == 0)
        await ready(engines)
        assert users.users == 1


@scenario
async def test_a_lane_that_dies_ends_the_engine_process(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, _), front(tmp_path) as (engines, handle):
        job = engines.submit(handle, [("a", row(30, DEADLY))], soon(1e6))
        assert isinstance(await error_of(job), Unavailable)
        await until(lambda: not process.connections)
        assert "is starting" in engines.obstacles()[0]
