"""If this breaks, a swap loses or mixes answers, a bad bundle replaces a good one, or memory grows with each swap."""

import os
import shutil
import time
import weakref
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import read_bundle
from models.session import Session
from models.tokenizer import Tokenizer
from service.settings import Settings
from tests.service.bundles import write_bundle
from tests.service.reloading import HEADS, KEY, TEXT, controlled, expected, load, refused, unload
from tests.service.serving import Served, serving, until


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    with controlled(root, root / "tiny" / "1.0.0") as served:
        yield served


@pytest.fixture(scope="module")
def two(root: Path) -> Iterator[Served]:
    """A server of two bundles, for tests that change nothing."""
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", lanes=1) as served:
        yield served


# ---- swaps ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swaps", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_swaps_under_load_lose_and_mix_nothing(root: Path, served: Served, swaps: int) -> None:
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

    with ThreadPoolExecutor(8) as pool:  # on two lanes: some always wait
        asked = pool.map(ask, range(8))
        try:
            for number in range(swaps):
                version = ("2.0.0", "1.0.0")[number % 2]
                done = load(served.client, "tiny", version)
                assert done.status_code == 200, done.text
                assert done.json()["version"] == version
                assert served.post("/classify", TEXT).headers["X-Bundle"] == f"tiny/{version}", "none is old after it"
                assert served.client.get("/health/ready").status_code == 200
        finally:
            stopping.append(True)
        found = [each for answered in asked for each in answered]
    assert len(found) > 2 * swaps and {bundle for _, bundle, _ in found} == set(answers)
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


def test_loading_again_reads_the_same_path_again(root: Path, served: Served) -> None:
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
        ("clash", ["'intent' is in bundle", '"rename": {"intent": "tiny-intent"}']),
    ],
)
def test_a_refusal_leaves_the_old_bundle_serving_and_says_why(two: Served, version: str, parts: list[str]) -> None:
    before, refusals = two.post("/classify", TEXT), two.sample("reloads_total", bundle="tiny", result="refused")
    refused(load(two.client, "tiny", version), 400, *parts)
    after = two.post("/classify", TEXT)
    assert after.content == before.content and after.headers["X-Bundle"] == "tiny/1.0.0"
    assert two.client.get("/health/ready").status_code == 200
    assert two.sample("reloads_total", bundle="tiny", result="refused") == refusals + 1
    assert two.sample("reloads_total", bundle="tiny", result="ok") == 0


def test_a_load_with_force_may_lose_a_head(root: Path, served: Served) -> None:
    assert load(served.client, "tiny", "poorer", force=True).status_code == 200
    assert served.post("/tag/ner", TEXT).status_code == 404


def test_names_that_a_load_gives_to_heads_last(root: Path) -> None:
    with controlled(root, root / "tiny" / "1.0.0", root / "other" / "1.0.0", lanes=1) as served:
        done = load(served.client, "tiny", "clash", rename={"intent": "tiny-intent"})
        assert done.status_code == 200, done.text
        for _ in range(2):
            assert served.post("/classify/tiny-intent", TEXT).headers["X-Bundle"] == "tiny/clash"
            assert served.post("/classify/intent", TEXT).headers["X-Bundle"] == "other/1.0.0"
            assert load(served.client, "tiny-intent").status_code == 200, "the same again, which remembers the name"
        refused(load(served.client, "tiny", "1.1.0", rename={"sentimental": "x"}), 400, "no head tiny:sentimental")
        refused(load(served.client, "tiny", "1.1.0", rename={"ner": "a/b"}), 400, "parameters.rename")
        refused(load(served.client, "tiny", "1.1.0", rename={"ner": "x"}), 400, "'ner' is missing", "force")
        refused(load(served.client, "tiny", "clash", rename={"ner": "sentiment"}), 400, "two heads of bundle tiny")


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
def test_an_unknown_version_is_refused(root: Path, two: Served, version: str, tmp_path: Path) -> None:
    link = root / "tiny" / "link"
    if not link.is_symlink():
        link.symlink_to(shutil.copytree(root / "tiny" / "1.0.0", tmp_path / "outside"))
    response = two.client.post("/v2/repository/models/tiny/load", json={"parameters": {"version": version}})
    refused(response, 404, "there is no")
    link.unlink()


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"no json", 400, "body"),
        (b"[]", 400, "body"),
        (b'{"parameters": {"config": "{}"}}', 400, "parameters.config"),
        (b'{"parameters": {"version": 5}}', 400, "parameters.version"),
        (
            b'{"parameters": {"version": "../1.0.0"}}',
            404,
            "no version '../1.0.0' of 'tiny' below",
        ),
        (b'{"parameters": {"rename": {"ner": "a b"}}}', 400, "parameters.rename.ner is 'a b', but must match ^["),
        (b'{"other": 1}', 400, "other"),
        (b" " * 70_000, 413, "65536"),
        (b'{"parameters": {"version": "\\ud800"}}', 400, "half of a character"),
        (b"\xff", 400, "byte 0 is 0xff"),
    ],
)
def test_an_invalid_body_is_refused(two: Served, body: bytes, status: int, part: str) -> None:
    refused(two.client.post("/v2/repository/models/tiny/load", content=body), status, part)


def test_an_unknown_name_is_refused(served: Served) -> None:
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
def test_pages_of_other_origins_are_refused(two: Served, header: dict[str, str]) -> None:
    refused(two.client.post("/v2/repository/models/tiny/load", content=b"{}", headers=header), 403, "origin")


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


def test_the_versions_have_different_contents(root: Path) -> None:
    """The versions differ, or the tests above compare nothing."""
    assert read_bundle(root / "tiny" / "1.0.0").digest != read_bundle(root / "tiny" / "2.0.0").digest
