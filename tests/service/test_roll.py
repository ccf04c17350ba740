"""If this breaks, a change on disk or a signal loads nothing, or workers serve different versions."""

import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest

from models.bundle import Bundle, read_bundle
from service.control import Control
from service.errors import SHUTTING_DOWN
from service.reload import Change, Outcome, Watch
from service.roll import Roll, changed
from service.settings import Settings
from tests.service.processes import children, process, ready
from tests.service.reloading import KEY, TEXT, controlled, load, refused
from tests.service.serving import Served, serving, until


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with controlled(root, root / "tiny" / "1.0.0") as served:
        yield served


def test_a_change_on_disk_is_seen_once_it_is_complete(root: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    look = Watch([current])
    assert look.changed([current]) == []
    current.unlink()
    assert look.changed([current]) == [], "nothing is there"
    current.symlink_to(root / "tiny" / "2.0.0")
    assert [look.changed([current]) for _ in range(3)] == [[], [current], []]
    shutil.copytree(root / "tiny" / "1.0.0", tmp_path / "copy")
    assert look.changed([current]) == []


def test_a_bundle_whose_files_come_after_its_manifest_is_loaded_once_they_are_there(root: Path, tmp_path: Path) -> None:
    current, new = tmp_path / "current", root / "tiny" / "2.0.0"
    shutil.copytree(root / "tiny" / "1.0.0", current)
    with serving(current, lanes=1, watch=0.1) as served:
        shutil.copy(new / "bundle.json", current)
        until(lambda: served.sample("reloads_total", bundle="tiny", result="refused") == 1)
        shutil.copytree(new, current, dirs_exist_ok=True)
        until(lambda: served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/2.0.0")


def slow_reading(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Let bundles be read slowly; return the event of a read that has begun, and the one for which it waits."""
    under_way, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> Bundle:
        under_way.set()
        go_on.wait(60)
        return read_bundle(path)

    monkeypatch.setattr("service.reload.read_bundle", slow)
    return under_way, go_on


def test_a_signal_during_a_load_is_not_lost(
    root: Path, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.reload")
    under_way, go_on = slow_reading(monkeypatch)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(load, served.client, "tiny", "1.1.0")
        assert under_way.wait(60)
        served.service.engine._loop.call_soon_threadsafe(served.service.reload.start_all)
        go_on.set()
        assert first.result().status_code == 200
    until(lambda: caplog.text.count("now serving tiny/1.1.0 in place of") == 2)


def test_a_request_waits_for_the_change_of_a_signal(
    root: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way, go_on = slow_reading(monkeypatch)
    served.service.engine._loop.call_soon_threadsafe(served.service.reload.start_all)
    assert under_way.wait(60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(load, served.client, "tiny", "1.1.0")
        until(lambda: served.service.reload._asked)
        refused(load(served.client, "tiny", "2.0.0"), 409, "another bundle is being loaded")
        go_on.set()
        assert first.result().json()["version"] == "1.1.0"


def test_a_request_to_a_worker_waits_for_the_change_of_a_signal() -> None:
    roll, (ours, theirs) = Roll(Settings(bundles=(Path("a"),), workers=2), lambda: False), multiprocessing.Pipe()
    sentinel, _ = os.pipe()
    roll.pipes = {Mock(sentinel=sentinel): ours}
    first, second = Change(None, Path("b")), Change(None, Path("c"))
    answers: dict[int, str] = {}
    made: list[tuple[str, object]] = []

    def work() -> None:
        while len(answers) < 2:
            step, number, *rest = theirs.recv()
            if step == "answer":
                answers[number] = rest[0].result
                continue
            made.append((step, rest[0]))
            if len(made) == 1:
                theirs.send(("ask", 7, first))
                theirs.send(("ask", 8, second))
            theirs.send(("done", number, Outcome("ok")))

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        roll.wanted = True
        roll.serve()
        working.result(60)
    assert answers == {7: "ok", 8: "busy"}
    assert [change for step, change in made if step == "prepare"] == [Change(Path("a"), Path("a")), first]
    assert roll.settings.bundles == (Path("a"), Path("b"))


def test_a_change_that_a_stopping_service_gives_up_says_so() -> None:
    roll, (ours, _) = Roll(Settings(bundles=(Path("a"),), workers=2), lambda: True), multiprocessing.Pipe()
    roll.pipes = {Mock(): ours}
    assert roll.roll(Change(Path("a"), Path("a"))) == Outcome("refused", SHUTTING_DOWN)


def test_the_log_says_why_a_signal_loaded_nothing(caplog: pytest.LogCaptureFixture) -> None:
    roll = Roll(Settings(workers=2), lambda: False)  # no worker runs
    roll.wanted = True
    roll.serve()
    assert "was not loaded again; the old bundle is still served: no worker runs" in caplog.text


def test_a_worker_may_ask_for_all_bundles(monkeypatch: pytest.MonkeyPatch) -> None:
    roll, (ours, theirs) = Roll(Settings(bundles=(Path("a"),), workers=2), lambda: False), multiprocessing.Pipe()
    roll.pipes = {Mock(): ours}
    change = Mock(return_value=Outcome("ok"))
    monkeypatch.setattr(roll, "roll", change)
    Control(theirs, Mock()).ask_for_all()
    roll.serve()
    roll.serve()
    change.assert_called_once_with(Change(Path("a"), Path("a")))


def test_a_worker_that_starts_later_knows_the_new_names() -> None:
    before = Settings(bundles=(Path("a"),), rename={"x:tag": "people"})
    after = changed(before, Change(None, Path("b"), "y/1.0.0", rename={"y:tag": "places"}))
    assert after.bundles == (Path("a"), Path("b")) and after.rename == {"x:tag": "people", "y:tag": "places"}


def test_a_canary_stays_when_its_bundle_was_served_in_full_and_is_replaced() -> None:
    one, two = Path("1"), Path("2")
    settings = Settings(bundles=(one,), canary=two, shadow=two)
    settings = changed(settings, Change(one, two))
    assert (settings.bundles, settings.canary, settings.shadow) == ((two,), two, two)
    settings = changed(settings, Change(two, one))
    assert (settings.bundles, settings.canary, settings.shadow) == ((one,), two, two)
    settings = changed(settings, Change(two, one))
    assert (settings.bundles, settings.canary, settings.shadow) == ((one,), one, two)


def test_a_bundle_that_is_replaced_on_disk_is_loaded(root: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    with serving(current, lanes=1, watch=0.1) as served:
        assert served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/1.0.0"
        (tmp_path / "next").symlink_to(root / "tiny" / "2.0.0")
        (tmp_path / "next").rename(current)
        until(lambda: served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/2.0.0")
        (tmp_path / "next").symlink_to(root / "tiny" / "flipped")
        (tmp_path / "next").rename(current)
        until(lambda: served.sample("reloads_total", bundle="tiny", result="refused") == 1)
        assert served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/2.0.0"


def test_a_signal_loads_all_again(root: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    with running("--bundle", str(current)) as (server, client):
        check_signal(root, current, server, client)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_before_any_bundle_is_read_does_no_harm(root: Path, workers: str) -> None:
    flags = ("--bundle", str(root / "tiny" / "1.0.0"), "--lanes", "1", "--workers", workers)
    with process(*flags) as (server, url):  # it has said where it listens, and nothing more
        server.send_signal(signal.SIGUSR1)
        until(lambda: ready(url))
        assert server.poll() is None


def check_signal(root: Path, current: Path, server: "subprocess.Popen[str]", client: httpx.Client) -> None:
    """Replace the bundle that is served; assert that a signal loads it in all workers."""
    new = current.with_name("next")
    new.symlink_to(root / "tiny" / "2.0.0")
    new.rename(current)
    server.send_signal(signal.SIGUSR1)
    until(lambda: set(bundles(client)) == {"tiny/2.0.0"})
    assert server.poll() is None


# ---- several workers -----------------------------------------------------------------------------------------------


@contextmanager
def running(*flags: str) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """A server of its own, with all workers ready; each request makes a connection, so that any worker may get it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        ThreadPoolExecutor(1) as reader,  # first, for it reads until the process has ended
        process("--lanes", "1", *flags, environment={**os.environ, "BERTHEADS_API_KEY": KEY}) as (server, url),
        httpx.Client(base_url=url, headers=headers, limits=limits, timeout=60) as client,
    ):
        assert server.stderr
        reader.submit(server.stderr.read)
        until(lambda: all_ready(client))
        yield server, client
        server.terminate()
        server.wait(60)


def all_ready(client: httpx.Client) -> bool:
    answer = client.get("/health/ready")
    return answer.status_code == 200 and answer.json()["workers"]["ready"] == answer.json()["workers"]["of"]


def bundles(client: httpx.Client) -> list[str]:
    return [client.post("/classify", json={"inputs": TEXT}).headers["X-Bundle"] for _ in range(12)]


@pytest.mark.slow
def test_all_workers_swap_or_none(root: Path, tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    flags = ["--bundle", str(current), "--bundle-root", str(root), "--model-control", "explicit"]
    with running(*flags, "--workers", "2") as (server, client):
        check_signal(root, current, server, client)
        for version in ("1.1.0", "1.0.0", "2.0.0"):
            assert load(client, "tiny", version).json()["version"] == version
            assert set(bundles(client)) == {f"tiny/{version}"}, "a worker still serves the old one"
            assert client.get("/health/ready").status_code == 200
        refused(load(client, "tiny", "flipped"), 400, "has SHA-256")
        refused(load(client, "tiny", "poorer"), 400, "'ner' is missing")
        assert set(bundles(client)) == {"tiny/2.0.0"}
        shown = client.get("/metrics").text
        assert 'bertheads_reloads_total{bundle="tiny",result="ok"} 4.0' in shown, "a change counts once"
        assert 'bertheads_reloads_total{bundle="tiny",result="refused"} 2.0' in shown
        info = [line for line in shown.splitlines() if line.startswith("bertheads_bundle_info")]
        (one,) = [line for line in info if line.endswith(" 1.0")]
        assert "2.0.0" in one
        victims = children(server.pid)
        os.kill(victims[0], signal.SIGKILL)
        until(lambda: len(alive := children(server.pid)) == 2 and victims[0] not in alive)
        until(lambda: client.get("/health/ready").status_code == 200)
        assert set(bundles(client)) == {"tiny/2.0.0"}, "a worker that replaces another serves what is served now"
        assert load(client, "tiny", "1.1.0").status_code == 200
        assert set(bundles(client)) == {"tiny/1.1.0"}
