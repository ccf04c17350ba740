"""If this breaks, an engine process computes with weights that no front asked for, or keeps weights that none uses."""

import asyncio
import gc
import os
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.bundle import read_bundle
from models.errors import BundleError
from models.row import Row
from models.session import Session
from service.admission import NICENESS, Limits
from service.device import Device, Sessions
from service.engine import Engine
from service.errors import SettingsError
from service.metric_files import metric_directory
from service.metrics import Metrics
from service.settings import Settings
from tests.service.devices import device, front
from tests.service.engines import POISON, row, soon, until
from tests.service.test_front import blocked, scenario


def sessions_of(settings: Settings) -> Sessions:
    return Sessions(settings, 0, Engine(Limits.of(settings), Metrics()))


@scenario
async def test_a_bundle_is_opened_once_and_dropped_with_its_last_user(bundle: Path) -> None:
    sessions, digest = sessions_of(Settings(lanes=1)), read_bundle(bundle).digest
    names = list(read_bundle(bundle).manifest.heads)
    asking = [sessions.open(str(bundle), digest, names, None) for _ in range(3)]
    first, *others = await asyncio.gather(*asking)
    assert all(each is first for each in others)
    renamed = ["mood", *names[1:]]
    other = await sessions.open(str(bundle), digest, renamed, first.session)
    assert other.session is not first.session and other.heads == renamed
    asked = Row([2, 7, 3], [0, 0, 0], [0])
    expected = first.session.run([(names[0], asked)])[0]
    assert other.session.run([("mood", asked)])[0].tobytes() == expected.tobytes()
    for _ in range(2):
        sessions.close(digest, names)
    assert (await sessions.open(str(bundle), digest, names, None)) is first
    for _ in range(2):
        sessions.close(digest, names)
    kept = weakref.ref(first.session)
    del first, others, asking
    gc.collect()
    await until(lambda: kept() is None)
    sessions.close(digest, renamed)
    assert not sessions._tasks and not sessions._users


@scenario
async def test_what_the_front_verified_is_what_is_opened(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    found = read_bundle(copy)
    sessions, names = sessions_of(Settings(lanes=1)), list(found.manifest.heads)
    graph = copy / "encoder.fp32.onnx"
    contents = bytearray(graph.read_bytes())
    contents[len(contents) // 2] ^= 1
    graph.write_bytes(contents)
    with pytest.raises(BundleError, match="has SHA-256"):
        await sessions.open(str(copy), found.digest, names, None)
    with pytest.raises(BundleError, match="has changed: its bundle.json has SHA-256"):
        await sessions.open(str(bundle), "0" * 64, names, None)
    assert not sessions._tasks and not sessions._users, "it can be tried again"
    shutil.copytree(bundle, copy, dirs_exist_ok=True)
    assert isinstance((await sessions.open(str(copy), found.digest, names, None)).session, Session)


def test_lanes_that_feed_a_gpu_keep_the_normal_priority() -> None:
    assert Limits.of(Settings(provider="cuda")).niceness == 0 < Limits.of(Settings()).niceness == NICENESS
    assert Limits.of(Settings(provider="cuda")).lanes == 2, "one batch runs while the next is prepared"


@scenario
async def test_spans_and_logs_of_batches_have_the_ids_of_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trace = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    told: list[Any] = []
    traces = SimpleNamespace(
        batch=lambda lane, batch, outcomes, times: told.extend(item.job.trace for item in batch),
        close=lambda patience: None,
    )
    monkeypatch.setattr("service.device.open_traces", lambda: traces)
    async with device(tmp_path), front(tmp_path) as (engines, handle):
        job = engines.submit(handle, [("a", row(9, POISON))], soon(1e6), 1.0, trace)
        await asyncio.wait([job.future])
        await until(lambda: told == [trace])
        assert any(getattr(record, "fields", None) == trace for record in caplog.records)


def test_an_engine_process_without_a_place_for_its_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot make .*/nowhere/device-0.socket .*; make /dev/shm writable"):
        Device(Settings(), 0, tmp_path / "nowhere")
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    with pytest.raises(SettingsError, match="cannot make .*; make /dev/shm writable"):
        asyncio.run(Device(Settings(lanes=1), 0, deep).serve())


@scenario
async def test_a_draining_engine_process_waits_for_its_fronts(tmp_path: Path) -> None:
    async with device(tmp_path) as (process, encoder):
        async with front(tmp_path) as (engines, handle):
            job = await blocked(engines, handle, encoder)
            process._stop()
            await asyncio.sleep(0.3)
            assert process.connections
            waiting = engines.submit(handle, [("a", row(30))], soon(1e6))
            encoder.open.set()
            assert len(await job.future) == len(await waiting.future) == 1
        await until(lambda: not process.connections)


def test_only_the_user_of_the_service_can_reach_an_engine_process(tmp_path: Path) -> None:
    with metric_directory() as directory:
        assert os.stat(directory).st_mode & 0o777 == 0o700
