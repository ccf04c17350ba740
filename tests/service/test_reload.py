"""If this breaks, a swap loses or mixes answers, a bad bundle replaces a good one, or memory grows with each swap."""

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import Bundle, read_bundle
from models.session import Session
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.errors import SettingsError
from service.heads import load_heads
from service.reload import Watch
from service.roll import Roll
from service.settings import Settings
from tests.service.bundles import write_bundle
from tests.service.serving import Served, serving, until
from tests.service.test_lifecycle import process

KEY = "secret"
HEADS = {"sentiment": HeadSpec("classify", ["negative", "positive"]), "ner": HeadSpec("tag", ["O", "B-PER", "I-PER"])}
OTHERS = {"intent": HeadSpec("classify", ["a", "b", "c"])}
TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def root(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Versions of a bundle, as ROOT/NAME/VERSION: good ones, and some that a service must refuse."""
    root = tmp_path_factory.mktemp("root")
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        write_bundle(root / "tiny" / version, tokenizer, HEADS, version=version)
    write_bundle(root / "tiny" / "poorer", tokenizer, {"sentiment": HEADS["sentiment"]}, version="poorer")
    other_task = HEADS | {"ner": HeadSpec("classify", ["x", "y"])}
    write_bundle(root / "tiny" / "other-task", tokenizer, other_task, version="other-task")
    write_bundle(root / "tiny" / "clash", tokenizer, HEADS | OTHERS, version="clash")
    write_bundle(root / "tiny" / "named-otherwise", tokenizer, HEADS, version="9.0.0")
    flipped = Path(shutil.copytree(root / "tiny" / "1.1.0", root / "tiny" / "flipped"))
    contents = bytearray((flipped / "encoder.fp32.onnx").read_bytes())
    contents[len(contents) // 2] ^= 1
    (flipped / "encoder.fp32.onnx").write_bytes(contents)
    half = Path(shutil.copytree(root / "tiny" / "1.1.0", root / "tiny" / "half"))
    (half / "heads/ner.onnx").unlink()
    write_bundle(root / "other" / "1.0.0", tokenizer, OTHERS, "other", version="1.0.0")
    return root


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with controlled(root, root / "tiny" / "1.0.0") as served:
        yield served


@contextmanager
def controlled(root: Path, *bundles: Path, **settings: Any) -> Iterator[Served]:
    chosen: dict[str, Any] = {"lanes": 2, "model_control": "explicit", "api_key": KEY, "bundle_root": root} | settings
    with serving(*bundles, **chosen) as served:
        yield served


def load(client: httpx.Client, name: str, version: str | None = None, **parameters: object) -> httpx.Response:
    """As tritonclient sends it: without a type."""
    given = ({"version": version} if version else {}) | parameters
    return client.post(f"/v2/repository/models/{name}/load", content=json.dumps({"parameters": given} if given else {}))


def unload(client: httpx.Client, name: str) -> httpx.Response:
    return client.post(f"/v2/repository/models/{name}/unload", content=b'{"parameters":{"unload_dependents":false}}')


def refused(response: httpx.Response, status: int, *parts: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/json", "or a client of KServe does not read it"
    body = response.json()
    assert body["error"] == body["detail"] and body["status"] == status and "request_id" in body
    for part in parts:
        assert part in body["error"]


def expected(root: Path, version: str) -> bytes:
    with serving(root / "tiny" / version, lanes=1) as served:
        return served.post("/classify", TEXT).content


# ---- swaps ---------------------------------------------------------------------------------------------------------


def test_fifty_swaps_under_load_lose_and_mix_nothing(root: Path, served: Served) -> None:
    answers = {f"tiny/{version}": expected(root, version) for version in ("1.0.0", "2.0.0")}
    assert len(set(answers.values())) == 2
    stopping: list[bool] = []
    headers = {"Authorization": f"Bearer {KEY}"}

    def ask(_: int) -> list[tuple[int, str, bytes]]:
        found = []
        with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
            while not stopping:
                response = client.post("/classify", json={"inputs": TEXT})
                found.append((response.status_code, response.headers["X-Bundle"], response.content))
        return found

    with ThreadPoolExecutor(32) as pool:
        asked = pool.map(ask, range(32))
        try:
            for number in range(50):
                version = ("2.0.0", "1.0.0")[number % 2]
                done = load(served.client, "tiny", version)
                assert done.status_code == 200, done.text
                assert done.json()["version"] == version
                assert served.post("/classify", TEXT).headers["X-Bundle"] == f"tiny/{version}", "none is old after it"
                assert served.client.get("/health/ready").status_code == 200
        finally:
            stopping.append(True)
        found = [each for answered in asked for each in answered]
    assert len(found) > 100 and {bundle for _, bundle, _ in found} == set(answers)
    assert Counter(status for status, _, _ in found) == {200: len(found)}
    assert all(content == answers[bundle] for _, bundle, content in found), "an answer of one with the name of another"


def test_fifty_swaps_keep_no_session_and_no_memory(root: Path, served: Served) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

    for version in ("2.0.0", "1.0.0") * 3:
        load(served.client, "tiny", version)
    before, parts = resident(), list["weakref.ref[Any]"]()
    for version in ("2.0.0", "1.0.0") * 25:
        loaded = served.service.heads.bundles[0]
        parts += map(weakref.ref, (loaded.session, loaded.bundle.tokenizer))
        del loaded
        assert served.post("/classify", TEXT).status_code == 200
        assert load(served.client, "tiny", version).status_code == 200
    until(lambda: not [part for part in parts if part()])  # else an idle lane or a cycle keeps what was replaced
    until(lambda: resident() < before + 24)


def test_a_load_measures_nothing_while_others_need_the_cores(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "_measure_gain", lambda *_: 5.0)
    for version, length in (("1.0.0", 64), ("1.1.0", 64), ("longer", 128)):
        write_bundle(tmp_path / "tiny" / version, tokenizer, HEADS, "tiny", ["int8"], length, version)
    with controlled(tmp_path, tmp_path / "tiny" / "1.0.0") as served:
        monkeypatch.setattr(Session, "_measure_gain", None)
        gains = {}
        for version in ("1.1.0", "longer", "1.0.0"):
            assert load(served.client, "tiny", version).status_code == 200
            gains[version] = served.service.heads.bundles[0].session.gain(64)
    assert gains == {"1.1.0": 5.0, "longer": 1.0, "1.0.0": 1.0}, "of equal shapes only"


def test_a_load_again_reads_the_same_path_again(root: Path, served: Served) -> None:
    for name in ("tiny", "sentiment"):
        body = load(served.client, name).json()
        assert body == {"name": name, "load": True, "version": "1.0.0", "previous": "1.0.0"}
    assert served.sample("reloads_total", bundle="tiny", result="ok") == 2


def test_rollback_is_a_load_of_the_previous_version(root: Path, served: Served) -> None:
    assert load(served.client, "tiny", "1.1.0").json()["previous"] == "1.0.0"
    assert served.sample("bundle_info", bundle="tiny", version="1.1.0", precision="fp32", provider="cpu") == 1
    shown = served.client.get("/metrics").text
    assert 'bertheads_bundle_info{bundle="tiny",precision="fp32",provider="cpu",version="1.1.0"} 1.0' in shown
    assert 'version="1.0.0"' not in shown, "the series of the old one go"
    assert abs(served.sample("bundle_loaded_timestamp_seconds", bundle="tiny", version="1.1.0") - time.time()) < 3600
    assert load(served.client, "tiny", "1.0.0").json()["previous"] == "1.1.0"
    assert served.client.get("/heads/ner").json()["bundle"]["version"] == "1.0.0"


# ---- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "parts"),
    [
        ("flipped", ["encoder.fp32.onnx has SHA-256"]),
        ("half", ["heads/ner.onnx does not exist"]),
        ("poorer", ["'ner' is missing in tiny/poorer", "force"]),
        ("other-task", ["'ner' is for /classify", "expected one for /tag"]),
        ("named-otherwise", ["is bundle tiny/9.0.0, expected tiny/named-otherwise"]),
        ("clash", ["'intent'", "rename it"]),
    ],
)
def test_a_refusal_leaves_the_old_one_serving_and_says_why(root: Path, version: str, parts: list[str]) -> None:
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", lanes=1) as served:
        before = served.post("/classify", TEXT)
        refused(load(served.client, "tiny", version), 400, *parts)
        after = served.post("/classify", TEXT)
        assert after.content == before.content and after.headers["X-Bundle"] == "tiny/1.0.0"
        assert served.client.get("/health/ready").status_code == 200
        assert served.sample("reloads_total", bundle="tiny", result="refused") == 1
        assert served.sample("reloads_total", bundle="tiny", result="ok") == 0


def test_who_says_force_may_lose_a_head(root: Path, served: Served) -> None:
    assert load(served.client, "tiny", "poorer", force=True).status_code == 200
    assert served.post("/tag/ner", TEXT).status_code == 404


def test_a_bundle_that_would_not_fit_is_refused(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, contents in {"max": "100000\n", "current": "90000\n", "stat": "anon 80000\ninactive_file 5000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(contents)
    monkeypatch.setattr("service.reload.MEMORY_LIMIT", tmp_path)
    refused(load(served.client, "tiny", "1.1.0"), 400, "of the container's limit; raise the limit")
    (tmp_path / "memory.max").write_text("max\n")
    assert load(served.client, "tiny", "1.1.0").status_code == 200


@pytest.mark.parametrize("version", ["3.0.0", "..", "../other/1.0.0", "", "/etc", ".", "a" * 65, "1.0.0\0", "link"])
def test_a_version_that_is_not_there(root: Path, served: Served, version: str, tmp_path: Path) -> None:
    link = root / "tiny" / "link"
    if not link.is_symlink():
        link.symlink_to(shutil.copytree(root / "tiny" / "1.0.0", tmp_path / "outside"))
    response = served.client.post("/v2/repository/models/tiny/load", json={"parameters": {"version": version}})
    refused(response, 404, "there is no")
    link.unlink()


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"no json", 400, "body"),
        (b"[]", 400, "body"),
        (b'{"parameters": {"config": "{}"}}', 400, "parameters.config"),
        (b'{"parameters": {"version": 5}}', 400, "parameters.version"),
        (b'{"other": 1}', 400, "other"),
        (b" " * 70_000, 413, "65536"),
        (b'{"parameters": {"version": "\\ud800"}}', 400, "half of a character"),
        (b"\xff", 400, "byte 0 is 0xff"),
    ],
)
def test_a_body_that_makes_no_sense(served: Served, body: bytes, status: int, part: str) -> None:
    refused(served.client.post("/v2/repository/models/tiny/load", content=body), status, part)


def test_a_name_that_is_not_there(served: Served) -> None:
    refused(load(served.client, "nothing"), 404, "'nothing'", "there are tiny, sentiment, ner")
    refused(load(served.client, "nothing", "1.0.0"), 404, "there is no version '1.0.0'")
    refused(unload(served.client, "nothing"), 404)


def test_one_load_at_a_time(root: Path, served: Served) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}

    def one(_: int) -> int:
        with httpx.Client(base_url=served.url, headers=headers, timeout=60) as client:
            return load(client, "tiny", "1.1.0").status_code

    with ThreadPoolExecutor(8) as pool:
        statuses = Counter(pool.map(one, range(8)))
    assert statuses[200] >= 1 and set(statuses) <= {200, 409} and statuses[409] >= 1


def test_control_is_off_by_default(root: Path) -> None:
    with serving(root / "tiny" / "1.0.0", lanes=1) as served:
        refused(load(served.client, "tiny"), 403, "--model-control explicit")
        refused(unload(served.client, "tiny"), 403)
        assert served.client.post("/v2/repository/index").status_code == 200
    with pytest.raises(ValueError, match="BERTHEADS_API_KEY"):
        Settings(model_control="explicit")


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_pages_of_other_origins_are_refused(served: Served, header: dict[str, str]) -> None:
    refused(served.client.post("/v2/repository/models/tiny/load", content=b"{}", headers=header), 403, "origin")


# ---- unload, index, pin --------------------------------------------------------------------------------------------


def test_a_bundle_is_unloaded_and_loaded_again(root: Path) -> None:
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", lanes=1) as served:
        index = served.client.post("/v2/repository/index").json()
        assert [(each["name"], each["version"], each["state"]) for each in index] == [
            ("sentiment", "1.0.0", "READY"),
            ("ner", "1.0.0", "READY"),
            ("intent", "1.0.0", "READY"),
        ]
        assert unload(served.client, "other").json() == {"name": "other", "unload": True, "version": "1.0.0"}
        assert served.post("/classify/intent", TEXT).status_code == 404
        refused(unload(served.client, "tiny"), 403, "the last")
        assert load(served.client, "other").json()["version"] == "1.0.0"
        assert served.post("/classify/intent", TEXT).status_code == 200
        unload(served.client, "other")
        assert load(served.client, "other", "1.0.0").status_code == 200, "below bundle_root it is found by name"


def test_a_header_pins_a_version(root: Path) -> None:
    settings = {"canary": root / "tiny" / "2.0.0", "canary_percent": 0}
    with controlled(root, root / "tiny" / "1.0.0", lanes=1, **settings) as served:
        for pin in ("tiny/1.0.0", "tiny/2.0.0"):
            response = served.client.post("/classify", json={"inputs": TEXT}, headers={"X-Bundle": pin})
            assert response.headers["X-Bundle"] == pin
        missing = served.client.post("/classify", json={"inputs": TEXT}, headers={"X-Bundle": "tiny/7"})
        assert missing.status_code == 404 and "tiny/1.0.0, tiny/2.0.0" in missing.json()["detail"]
        assert served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/1.0.0"


# ---- canary and shadow ---------------------------------------------------------------------------------------------


def test_a_canary_answers_its_part(root: Path) -> None:
    settings = {"canary": root / "tiny" / "2.0.0", "canary_percent": 30, "canary_by": "X-User"}
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", **settings) as served:

        def bundle(user: int, route: str = "/classify/sentiment") -> str:
            headers = {"X-User": f"user-{user}"}
            response = served.client.post(route, json={"inputs": TEXT}, headers=headers)
            return str(response.headers["X-Bundle"])

        found = [bundle(user) for user in range(200)]
        assert 40 < found.count("tiny/2.0.0") < 80
        assert [bundle(user) for user in range(50)] == found[:50], "a user stays where he is"
        assert {bundle(user, "/classify/intent") for user in range(50)} == {"other/1.0.0"}
        assert 0 < sum(served.post("/classify", TEXT).headers["X-Bundle"] == "tiny/2.0.0" for _ in range(60)) < 60


def test_a_canary_with_another_task_is_refused_at_the_start(root: Path) -> None:
    settings = Settings(bundles=(root / "tiny" / "1.0.0",), canary=root / "tiny" / "other-task")
    with pytest.raises(SettingsError, match="'ner' is for /tag .* rename it"):
        load_heads(settings, print)


def test_a_shadow_is_compared_and_never_noticed(root: Path) -> None:
    inputs = [f"the cat sat on mat {number}" for number in range(8)]
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "1.0.0") as served:
        assert served.post("/classify", inputs).headers["X-Bundle"] == "tiny/1.0.0"
        until(lambda: served.sample("shadow_inputs_total", head="sentiment") == 8)
        assert served.sample("shadow_disagreements_total", head="sentiment") == 0
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "2.0.0") as served:
        for path in ("/classify", "/tag"):
            assert served.post(path, inputs).headers["X-Bundle"] == "tiny/1.0.0"
            head = {"/classify": "sentiment", "/tag": "ner"}[path]
            until(lambda head=head: served.sample("shadow_inputs_total", head=head) == 8)
            assert served.sample("shadow_score_difference_sum", head=head) > 0
        assert served.sample("shadow_disagreements_total", head="ner") > 0
        encode = served.service.heads.shadow.heads[0].task  # type: ignore[union-attr]
        encode.encode = None  # type: ignore[method-assign]
        assert served.post("/classify", inputs).status_code == 200


def test_a_shadow_compares_what_was_asked_for(root: Path) -> None:
    scores = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
    scores["outputs"] = [{"name": "scores"}]
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "1.0.0") as served:
        served.answer("/tag", TEXT, redact=True)
        until(lambda: served.sample("shadow_score_difference_count", head="ner") == 1)
        assert served.client.post("/v2/models/sentiment/infer", json=scores).status_code == 200
        until(lambda: served.sample("shadow_score_difference_count", head="sentiment") == 1)
        assert served.sample("shadow_disagreements_total", head="ner") == 0
        assert served.sample("shadow_disagreements_total", head="sentiment") == 0
    with controlled(root, root / "tiny" / "1.0.0", shadow=root / "tiny" / "2.0.0") as served:
        served.answer("/tag", [TEXT] * 4, redact=True)
        until(lambda: served.sample("shadow_score_difference_count", head="ner") == 4)


# ---- other triggers ------------------------------------------------------------------------------------------------


def test_a_change_on_disk_is_seen_once_it_stands_still(root: Path, tmp_path: Path) -> None:
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


def test_a_signal_during_a_load_is_not_lost(
    root: Path, served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "service.reload")
    under_way, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> Bundle:
        under_way.set()
        go_on.wait(60)
        return read_bundle(path)

    monkeypatch.setattr("service.reload.read_bundle", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(load, served.client, "tiny", "1.1.0")
        assert under_way.wait(60)
        served.service.engine._loop.call_soon_threadsafe(served.service.reload.start_all)
        go_on.set()
        assert first.result().status_code == 200
    until(lambda: caplog.text.count("tiny/1.1.0 is served in place of") == 2)


def test_the_log_says_why_a_signal_loaded_nothing(caplog: pytest.LogCaptureFixture) -> None:
    roll = Roll(Settings(workers=2), lambda: False)  # no worker runs
    roll.wanted = True
    roll.serve()
    assert "was not loaded again, what was served goes on: no worker runs" in caplog.text


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


@pytest.mark.parametrize("workers", [1, 2])
def test_a_signal_loads_all_again(root: Path, tmp_path: Path, workers: int) -> None:
    current = tmp_path / "current"
    current.symlink_to(root / "tiny" / "1.0.0")
    with running("--bundle", str(current), "--workers", str(workers)) as (server, client):
        (tmp_path / "next").symlink_to(root / "tiny" / "2.0.0")
        (tmp_path / "next").rename(current)
        server.send_signal(signal.SIGUSR1)
        until(lambda: all(name == "tiny/2.0.0" for name in bundles(client)))
        assert server.poll() is None


# ---- several workers -----------------------------------------------------------------------------------------------


@contextmanager
def running(*flags: str) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """A server of its own, which is ready; each request makes a connection, so that any worker may get it."""
    limits = httpx.Limits(max_keepalive_connections=0)
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        process("--lanes", "1", *flags) as (server, url),
        httpx.Client(base_url=url, headers=headers, limits=limits, timeout=60) as client,
        ThreadPoolExecutor(1) as reader,
    ):
        assert server.stderr
        reader.submit(server.stderr.read)
        until(lambda: client.get("/health/ready").status_code == 200)
        yield server, client
        server.terminate()
        server.wait(60)


def bundles(client: httpx.Client) -> list[str]:
    return [client.post("/classify", json={"inputs": TEXT}).headers["X-Bundle"] for _ in range(12)]


def test_all_workers_swap_or_none(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTHEADS_API_KEY", KEY)
    flags = ["--bundle", str(root / "tiny" / "1.0.0"), "--bundle-root", str(root), "--model-control", "explicit"]
    with running(*flags, "--workers", "2") as (server, client):
        for version in ("1.1.0", "2.0.0", "1.0.0", "2.0.0"):
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


def children(pid: int) -> list[int]:
    """Workers: multiprocessing has a helper beside them."""
    found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [child for child in found if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]


def test_the_answer_of_a_bundle_is_known(root: Path) -> None:
    """The versions differ, or the tests above compare nothing."""
    assert read_bundle(root / "tiny" / "1.0.0").digest != read_bundle(root / "tiny" / "2.0.0").digest
