"""If this breaks, a probe kills a loading server, shutdown loses requests, or a broken server looks healthy."""

import asyncio
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.errors import BundleError
from models.session import Session
from service.errors import SHUTTING_DOWN
from service.heads import load_heads
from service.lifecycle import Service
from service.metrics import Metrics
from service.queue import Deadline
from service.server import create_server
from service.settings import Settings
from tests.service.processes import answers, children, half_sent, process, ready, total
from tests.service.serving import Served, serving, until
from tests.service.test_bad_input import problem


def test_a_loading_server_is_live_and_reports_its_progress(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()

    def slowly(*arguments: Any) -> Any:
        arguments[1]("reading bundle 1 of 1")
        assert loaded.wait(30)
        return load_heads(*arguments)

    monkeypatch.setattr("service.lifecycle.load_heads", slowly)
    with serving(bundle, wait=False, lanes=1) as served:
        until(lambda: served.client.get("/health/live").status_code == 200)
        until(lambda: "reading" in served.service.progress)
        assert "reading bundle 1 of 1" in problem(served.client.get("/health/ready"), 503)["detail"]
        refused = served.client.post("/classify", json={"inputs": "the cat"}, headers={"X-Deadline-Ms": "50"})
        assert "loading" in problem(refused, 503)["detail"] and refused.headers["Retry-After"] == "1"
        assert served.client.get("/").status_code == served.client.get("/metrics").status_code == 200
        assert served.sample("ready") == 0
        with ThreadPoolExecutor() as clients:
            held = [clients.submit(served.post, "/classify", "the cat") for _ in range(3)]
            until(lambda: served.service._held == 3)
            loaded.set()
            until(lambda: served.client.get("/health/ready").status_code == 200)
            assert [each.result().status_code for each in held] == [200] * 3
        assert served.service._held == 0 and served.sample("ready") == 1


def test_the_number_of_requests_held_while_loading_is_bounded(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = threading.Event()

    def slowly(*arguments: Any) -> Any:
        assert loaded.wait(30)
        return load_heads(*arguments)

    monkeypatch.setattr("service.lifecycle.load_heads", slowly)
    monkeypatch.setattr("service.lifecycle.MAX_HELD", 1)
    with serving(bundle, wait=False, lanes=1) as served, ThreadPoolExecutor() as clients:
        until(lambda: served.client.get("/health/live").status_code == 200)
        held = clients.submit(served.post, "/classify", "the cat")
        until(lambda: served.service._held == 1)
        assert problem(served.post("/classify", "the cat"), 503)
        loaded.set()
        assert held.result().status_code == 200


FLUSHED = """
import numpy, threading
import service.server
from service.settings import Settings

def run(server, sockets):  # where the lanes start
    tiny = numpy.full(64, 1e-38, numpy.float32)
    lane = threading.Thread(target=lambda: print((tiny * numpy.float32(0.1)).max()))
    lane.start()
    lane.join()

service.server.Server.run = run
service.server.serve(Settings(), None)
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="ONNX Runtime may not know how elsewhere")
def test_lanes_treat_denormal_numbers_as_zero() -> None:
    result = subprocess.run([sys.executable, "-c", FLUSHED], capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout == "0.0\n"


@pytest.mark.parametrize("error", [BundleError("the bundle is broken"), RuntimeError("a surprise")])
def test_a_server_that_cannot_load_ends(bundle: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any) -> Any:
        raise error

    monkeypatch.setattr("service.lifecycle.load_heads", fail)
    with serving(bundle, wait=False, lanes=1) as served:
        until(lambda: served.service.failure)
        until(lambda: not answers(served.url))
    assert str(error) in str(served.service.failure)


def test_memory_is_returned_after_long_texts_once_no_request_is_in_flight(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()
    monkeypatch.setattr("service.lifecycle.TRIM_AFTER", 0.01)
    monkeypatch.setattr("service.lifecycle.trim", trimmed.set)
    with serving(bundle, lanes=1) as served:
        served.answer("/classify", "a short text")
        time.sleep(0.1)
        assert not trimmed.is_set()
        served.service.bodies.size += 1  # another request
        served.answer("/classify", ["a long text " * 500] * 4)
        time.sleep(0.1)
        assert not trimmed.is_set()
        served.service.bodies.size -= 1
        assert trimmed.wait(20)


def test_a_request_that_is_cut_off_while_it_is_held_makes_room(bundle: Path) -> None:
    async def cut_off() -> int:
        service = Service(Settings(bundles=(bundle,)), Metrics())
        service._loading = asyncio.create_task(asyncio.sleep(60))
        held = asyncio.create_task(service.loaded(Deadline(time.monotonic() + 60, 60.0)))
        await asyncio.sleep(0)
        held.cancel()
        await asyncio.wait([held])
        service._loading.cancel()
        return service._held

    assert asyncio.run(cut_off()) == 0


def test_sigterm_ends_it_with_status_0_and_loses_no_request(bundle: Path) -> None:
    with (
        process("--bundle", str(bundle), "--lanes", "1", "--drain-delay", "2") as (running, url),
        ThreadPoolExecutor(8) as threads,
    ):
        until(lambda: ready(url))
        stop = threading.Event()

        def ask() -> list[int]:
            statuses = []
            while not stop.is_set():
                statuses.append(
                    httpx.post(f"{url}/tag", json={"inputs": ["the cat sat " * 40] * 4}, timeout=60).status_code
                )
            return statuses

        asking = [threads.submit(ask) for _ in range(4)]
        until(lambda: httpx.get(f"{url}/metrics").text.count('status="200"') > 0)
        running.send_signal(signal.SIGTERM)
        until(lambda: not ready(url))
        assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}).status_code == 200  # not ready, but answering
        stop.set()
        assert all(set(each.result()) == {200} for each in asking)
        assert running.wait(30) == 0


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGHUP, 1),
        *(pytest.param(number, 2, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGINT)),
    ],
)
def test_a_signal_that_a_terminal_sends_to_all_processes_drains_too(bundle: Path, number: int, workers: int) -> None:
    flags = ("--bundle", str(bundle), "--lanes", "1", "--workers", str(workers), "--drain-delay", "1")
    with process(*flags) as (running, url), half_sent(url) as slow:
        until(lambda: total(url, "requests_in_flight") > 1)  # beside that of the metrics
        began = time.monotonic()
        for pid in (running.pid, *children(running.pid)):
            with suppress(ProcessLookupError):  # a worker that still loads ends at once
                os.kill(pid, number)
        until(lambda: not ready(url))
        slow.sendall(b' "the cat"}')
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert running.wait(30) == 0
        assert time.monotonic() - began >= 1


def test_a_second_signal_ends_what_is_in_flight_and_the_process_in_order(bundle: Path) -> None:
    """Lanes that still run when the interpreter ends would abort it."""
    flags = ("--bundle", str(bundle), "--lanes", "2", "--max-queued-tokens", "2000000")
    with process(*flags) as (running, url), ThreadPoolExecutor(4) as threads:
        until(lambda: ready(url))
        body = {"inputs": ["the cat sat " * 300] * 240}
        asking = [threads.submit(httpx.post, f"{url}/tag", json=body, timeout=60) for _ in range(4)]
        until(lambda: total(url, "requests_in_flight") > 4)
        running.terminate()
        time.sleep(0.3)
        running.terminate()
        assert running.wait(30) == 0
        statuses = {each.result().status_code for each in asking}
        assert 503 in statuses <= {200, 503}
        assert running.stderr and "Traceback" not in running.stderr.read()


def test_a_request_whose_worker_threads_have_ended_may_be_retried_elsewhere(bundle: Path) -> None:
    """A long text whose logits come while the service ends; 500 would say that the input is at fault."""
    with serving(bundle, lanes=1) as served:
        served.service.texts.shutdown(wait=False)
        response = served.client.post("/tag", json={"inputs": ["the cat sat " * 300] * 20})
        assert response.status_code == 503 and SHUTTING_DOWN in response.json()["detail"]
        assert response.headers["Retry-After"] == "1"


def test_a_request_that_draining_cuts_off_may_be_retried_elsewhere(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to a request that outlasts the drain is a 503 that clients send again, and it is counted."""
    stuck = threading.Event()
    run = Session.run
    monkeypatch.setattr(Session, "run", lambda self, items: stuck.wait(30) and run(self, items))
    try:
        with ThreadPoolExecutor(1) as threads, serving(bundle, wait=False, lanes=1, drain_timeout=1) as served:
            stuck.set()
            until(lambda: not served.service.obstacles())
            stuck.clear()
            asking = threads.submit(httpx.post, f"{served.url}/classify", json={"inputs": "the cat"}, timeout=60)
            until(lambda: served.sample("queue_rows") == 0 and served.service.engine._lanes[0].tokens > 0)
            served.service.drain()
            assert served.client.get("/heads").headers["Connection"] == "close"
    finally:
        stuck.set()
    cut = asking.result()
    assert "another replica" in problem(cut, 503)["detail"] and cut.headers["Connection"] == "close"
    assert cut.headers["Retry-After"] == "1"
    assert served.sample("requests_total", route="/classify", head="sentiment", status="503") == 1


def test_readiness_and_its_metric_agree(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bundle, lanes=1) as served:
        assert served.sample("ready") == served.sample("workers") == 1
        monkeypatch.setattr(served.service.engine, "troubles", lambda: ["lane-0 hangs"])
        until(lambda: served.sample("ready") == 0)
        refused = served.client.get("/health/ready")
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"


def test_a_worker_that_lost_a_lane_ends_but_a_single_process_goes_on(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for workers, lost in ((1, False), (2, True)):
        server = create_server(Settings(bundles=(bundle,), port=0, workers=workers))
        monkeypatch.setattr(server.service.engine, "troubles", lambda: ["lane-0 died"])
        asyncio.run(server.on_tick(1))
        assert (server.should_exit, server.lost) == (lost, lost)


ELSEWHERE = """
import os, sys
for name in ("sched_getaffinity", "sched_setaffinity", "setpriority", "getpriority", "posix_fallocate"):
    delattr(os, name)
from service.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("workers", ["1", "2"])
def test_it_serves_without_the_functions_that_only_linux_has(bundle: Path, tmp_path: Path, workers: str) -> None:
    """Workers import the module __main__ again, so theirs lacks the same functions."""
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE.replace("sys.exit", 'if __name__ == "__main__": sys.exit'))
    flags = ("--bundle", str(bundle), "--workers", workers)
    with process(*flags, program=(str(tmp_path / "elsewhere.py"),)) as (running, url):
        until(lambda: ready(url))
        assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}).status_code == 200
        running.terminate()
        assert running.wait(30) == 0


def test_a_missing_bundle_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service", "--port", "0", "--bundle", str(tmp_path / "nowhere")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.count("nowhere is not a directory") == 1


def test_a_port_that_is_taken_is_one_sentence_and_status_1(served: Served) -> None:
    port = str(served.client.base_url.port)
    result = subprocess.run(
        [sys.executable, "-m", "service", "--port", port], capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 1 and result.stderr.count("\n") == 1 and port in result.stderr
