"""If this breaks, a service with fronts gives wrong answers, loses requests, or hangs when a process ends."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.tokenizer import Tokenizer
from tests.benchmarks.fronts import engine_process
from tests.service.bundles import write_bundle
from tests.service.processes import all_ready, children, half_sent, process, ready, total
from tests.service.reloading import KEY, TEXT, load, refused
from tests.service.serving import serving, until

PROGRAM = ("-m", "tests.service.fronts")
LIMITS: dict[str, Any] = {"max_items": 8, "max_characters": 5000, "max_queued_tokens": 2000}
LONG = " ".join(["the cat sat on the mat ."] * 40)
ASKED: list[tuple[str, Any]] = [
    ("/classify", {"inputs": "the cat sat"}),
    ("/classify", {"inputs": ["the cat", LONG, "the cat"], "parameters": {"truncation": "windows"}}),
    ("/pair", {"inputs": {"text": "the cat", "text_pair": "a dog"}}),
    ("/tag", {"inputs": LONG}),
    ("/qa", {"inputs": {"question": "who sat ?", "context": LONG}, "parameters": {"top_k": 3}}),
    ("/fill-mask", {"inputs": "the [MASK] sat", "parameters": {"top_k": 2}}),
    ("/zero-shot", {"inputs": "the cat", "parameters": {"candidate_labels": ["animal", "sport"]}}),
    ("/heads/sentiment", None),
    ("/classify/nobody", {"inputs": "the cat"}),
    ("/classify", {"inputs": ["the cat"] * 9}),
    ("/classify", {"inputs": "the cat", "parameters": {"top_k": 0}}),
    ("/tag", {"inputs": [LONG] * 8}),
    ("/v2/models/sentiment/infer", {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["cat"]}]}),
]
"""Every kind of answer, errors of each layer among them."""
FREE = {"date", "server-timing"}


def asked(client: httpx.Client, path: str, body: Any) -> tuple[int, bytes, dict[str, str]]:
    """Return what tells two answers apart."""
    method = "GET" if body is None else "POST"
    answer = client.request(method, path, json=body, headers={"X-Request-Id": "fixed"})
    return answer.status_code, answer.content, {k: v for k, v in answer.headers.items() if k not in FREE}


@pytest.fixture(scope="module")
def current(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A link to the bundle that the fronts serve."""
    link = tmp_path_factory.mktemp("current") / "link"
    link.symlink_to(bundle)
    return link


@pytest.fixture(scope="module")
def fronts(current: Path) -> Iterator[tuple[int, str]]:
    """The process of a supervisor with two fronts, and where they listen."""
    flags = [part for name, value in LIMITS.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with (
        ThreadPoolExecutor(1) as reader,  # first, for it reads until the process has ended
        process("--bundle", str(current), "--workers", "2", *flags, program=PROGRAM) as (running, url),
    ):
        assert running.stderr
        reader.submit(running.stderr.read)
        until(lambda: all_ready(url))
        yield running.pid, url
        running.kill()


def test_answers_are_those_of_one_process_byte_for_byte(bundle: Path, fronts: tuple[int, str]) -> None:
    with serving(bundle, lanes=2, **LIMITS) as one:
        expected = [asked(one.client, *case) for case in ASKED]
    assert {status for status, _, _ in expected} == {200, 404, 422}
    for _ in range(2):  # each client has one connection, to one front or the other
        with httpx.Client(base_url=fronts[1], timeout=60) as client:
            for case, answer in zip(ASKED, expected, strict=True):
                assert asked(client, *case) == answer, case[0]


def test_there_is_one_queue_and_one_copy_of_the_weights(fronts: tuple[int, str]) -> None:
    pid, url = fronts
    engine = engine_process(pid)
    assert len(children(pid)) == 3 and engine in children(pid)
    page = httpx.get(f"{url}/metrics").text
    assert total(url, "lanes ") == total(url, "lanes_alive ") >= 1
    assert f"bertheads_queue_tokens_limit {LIMITS['max_queued_tokens']}.0" in page, "of one queue"
    assert f'process_resident_memory_bytes{{pid="{engine}"}}' in page
    before = total(url, "batches_total")
    assert httpx.post(f"{url}/classify", json={"inputs": "the cat"}).status_code == 200
    until(lambda: total(url, "batches_total") > before)


@contextmanager
def under_load(url: str, clients: int = 6) -> Iterator[list[tuple[int, str]]]:
    """Ask without end while the block runs; yield the statuses and details of all answers, 0 for a lost connection."""
    found: list[tuple[int, str]] = []
    end = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=60) as client:
            while not end.is_set():
                try:
                    answer = client.post("/tag", json={"inputs": ["the cat sat on the mat"] * 4})
                    found.append((answer.status_code, answer.json()["detail"] if answer.status_code != 200 else ""))
                    assert answer.status_code == 200 or answer.headers["Retry-After"]
                except httpx.TransportError as error:
                    found.append((0, repr(error)))

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask) for _ in range(clients)]
        try:
            until(lambda: len(found) > 20)
            yield found
        finally:
            end.set()
    for each in asking:
        each.result()


def test_a_killed_engine_process_is_replaced_and_nothing_hangs(fronts: tuple[int, str]) -> None:
    pid, url = fronts
    engine, others = engine_process(pid), children(pid)
    with under_load(url) as found:
        os.kill(engine, signal.SIGKILL)
        until(lambda: any(status == 503 for status, _ in found))
        until(lambda: not ready(url))
        assert httpx.get(f"{url}/health/live").status_code == 200, "the fronts live"
        until(lambda: all_ready(url))
        before = len(found)
        until(lambda: len(found) > before + 20)
    statuses = Counter(status for status, _ in found)
    assert set(statuses) == {200, 503} and {status for status, _ in found[before:]} == {200}
    for status, detail in found:
        assert status == 200 or "engine process" in detail
    assert set(others) - set(children(pid)) == {engine}, "the fronts are the same"
    assert total(url, "worker_restarts") >= 1 and total(url, 'dropped_total{reason="lane"}') >= 1


def test_bundles_are_loaded_again_while_an_engine_process_is_replaced(fronts: tuple[int, str]) -> None:
    """The fronts wait for the new engine process, and the supervisor, which starts it, for the fronts."""
    pid, url = fronts
    before = total(url, 'reloads_total{bundle="tiny",result="ok"}')
    os.kill(engine_process(pid), signal.SIGKILL)
    os.kill(pid, signal.SIGUSR1)
    until(lambda: not ready(url))
    until(lambda: all_ready(url))
    until(lambda: total(url, 'reloads_total{bundle="tiny",result="ok"}') == before + 1)


def test_a_killed_front_loses_its_own_requests_only(fronts: tuple[int, str]) -> None:
    pid, url = fronts
    engine = engine_process(pid)
    victim = next(each for each in children(pid) if each != engine)
    with under_load(url) as found:
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in children(pid) and len(children(pid)) == 3)
        until(lambda: all_ready(url))
        before = len(found)
        until(lambda: len(found) > before + 20)
    assert {status for status, _ in found} <= {0, 200} and {status for status, _ in found[before:]} == {200}
    assert Counter(status for status, _ in found)[0] <= 6, "a client loses the request that it waits for, no other"
    assert engine_process(pid) == engine
    until(lambda: total(url, "queue_rows") == 0)  # the page may be a second old


def replace(link: Path, bundle: Path) -> None:
    """Let a link lead to another bundle, at one blow."""
    link.with_name("next").symlink_to(bundle)
    link.with_name("next").rename(link)


def test_a_signal_changes_the_bundle_of_all_fronts_and_draining_loses_nothing(
    fronts: tuple[int, str], current: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pid, url = fronts
    replace(current, write_bundle(tmp_path / "tiny", tokenizer, version="2.0.0"))
    os.kill(pid, signal.SIGUSR1)

    def bundles() -> set[str]:
        answers = [httpx.post(f"{url}/classify", json={"inputs": TEXT}) for _ in range(12)]  # from any front
        return {answer.headers["X-Bundle"] for answer in answers if answer.raise_for_status()}

    until(lambda: bundles() == {"tiny/2.0.0"})
    with half_sent(url) as slow:
        until(lambda: total(url, "requests_in_flight") > 1)  # one is the request for the metrics
        os.kill(pid, signal.SIGTERM)
        until(lambda: not ready(url))
        slow.sendall(b' "the cat"}')
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
    until(lambda: not Path(f"/proc/{pid}/exe").exists())  # it has ended, and only its status is left


def served(url: str) -> str:
    """Return the line of the metrics that says what is served."""
    page = httpx.get(f"{url}/metrics", timeout=20).text.splitlines()
    return "".join(line for line in page if line.startswith("bertheads_bundle_info") and line.endswith(" 1.0"))


@pytest.mark.slow
def test_a_change_reaches_all_fronts_or_none_and_draining_loses_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTHEADS_API_KEY", KEY)
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    flags = ["--bundle", str(current), "--bundle-root", str(root), "--model-control", "explicit", "--workers", "2"]
    headers = {"Authorization": f"Bearer {KEY}"}
    limits = httpx.Limits(max_keepalive_connections=0)  # so that any front may get a request
    with (
        ThreadPoolExecutor(8) as threads,  # first, for it reads until the process has ended
        process(*flags, program=PROGRAM) as (running, url),
        httpx.Client(base_url=url, headers=headers, limits=limits, timeout=60) as client,
    ):
        assert running.stderr
        threads.submit(running.stderr.read)
        until(lambda: all_ready(url))

        def bundles() -> set[str]:
            answers = [client.post("/classify", json={"inputs": TEXT}) for _ in range(12)]
            assert {answer.status_code for answer in answers} == {200}
            return {answer.headers["X-Bundle"] for answer in answers}

        # A new engine process finds another bundle than is served: all fronts change to it.
        replace(current, root / "tiny" / "1.1.0")
        os.kill(engine_process(running.pid), signal.SIGKILL)
        until(lambda: total(url, 'bundle_info{bundle="tiny"') == 1 and "1.1.0" in served(url) and all_ready(url))
        assert bundles() == {"tiny/1.1.0"}

        # Each front has asked for that change: a request waits for those that are still to come.
        assert load(client, "tiny", "2.0.0").json()["version"] == "2.0.0"
        assert bundles() == {"tiny/2.0.0"}
        refused(load(client, "tiny", "flipped"), 400, "has SHA-256")
        refused(load(client, "tiny", "poorer"), 400, "'ner' is missing")
        assert load(client, "other", "1.0.0").status_code == 200
        assert bundles() == {"tiny/2.0.0"}
        assert {client.post("/classify/intent", json={"inputs": TEXT}).status_code for _ in range(8)} == {200}
        assert load(client, "tiny", "1.0.0").status_code == 200
        running.send_signal(signal.SIGUSR1)
        until(lambda: total(url, 'reloads_total{bundle="tiny",result="ok"}') >= 4)
        assert bundles() == {"tiny/1.0.0"}

        # What is in flight when the signal comes is answered, by the engine process too.
        long = {"inputs": [" ".join(["the cat sat"] * 2000)] * 12}
        asking = [threads.submit(client.post, "/tag", json=long) for _ in range(6)]
        with half_sent(url, f"Authorization: Bearer {KEY}\r\n") as slow:
            until(lambda: total(url, "requests_in_flight") > 7)
            running.terminate()
            until(lambda: not ready(url))
            slow.sendall(b' "the cat"}')
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert [each.result().status_code for each in asking] == [200] * 6
        assert running.wait(60) == 0
