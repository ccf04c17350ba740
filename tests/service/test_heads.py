"""If this breaks, the wrong head answers, or two bundles hide each other's heads."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.bundle import read_bundle
from models.errors import BundleError
from models.session import Session
from models.task import HeadSpec
from models.tokenizer import Tokenizer
from service.errors import NotFound, SettingsError
from service.heads import load_heads
from service.settings import STARTER, Settings
from tests.service.bundles import write_bundle
from tests.service.processes import process
from tests.service.serving import serving, until


@pytest.fixture(scope="module")
def other(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    heads = {"intent": HeadSpec("classify", ["a", "b", "c"]), "people": HeadSpec("tag", ["O", "B-PER", "I-PER"])}
    return write_bundle(tmp_path_factory.mktemp("bundles") / "other", tokenizer, heads, "other", max_length=32)


def silent(progress: str) -> None:
    assert progress


def test_heads_of_several_bundles_are_served_together_and_the_first_is_the_default(bundle: Path, other: Path) -> None:
    for order, default in [((bundle, other), "sentiment"), ((other, bundle), "intent")]:
        heads = load_heads(Settings(bundles=order), silent)
        assert heads.find("classify", None).name == default
        assert heads.find("classify", "intent").bundle_name == "other/1.2.3"
        assert heads.find("qa", None).bundle_name == "tiny/1.2.3"


def test_a_batch_that_runs_alone_gets_the_threads_of_all_lanes(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[int, int]] = []

    def session(*rest: Any, threads: int, wide_threads: int, **named: Any) -> Session:
        given.append((threads, wide_threads))
        return Session(*rest, threads=threads, wide_threads=wide_threads, **named)

    monkeypatch.setattr("service.heads.Session", session)
    load_heads(Settings(bundles=(bundle,), lanes=3, threads=2), silent)
    load_heads(Settings(bundles=(bundle,), lanes=1), silent)
    assert given == [(2, 6), (1, 1)]


def test_two_bundles_serve_over_one_queue(bundle: Path, other: Path) -> None:
    with serving(other, bundle, lanes=1) as served:
        assert len(served.answer("/classify", "the cat")[0]) == 3
        assert len(served.answer("/classify/topic", "the cat")[0]) == 4
        assert served.post("/classify/intent", "the cat").headers["X-Bundle"] == "other/1.2.3"
        assert len(served.client.get("/heads").json()["heads"]) == 9


def test_a_head_in_two_bundles_names_both(bundle: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    twin = write_bundle(tmp_path / "twin", tokenizer, {"topic": HeadSpec("classify", ["a", "b"])}, "twin")
    with pytest.raises(SettingsError, match=r"'topic'.*tiny.*twin"):
        load_heads(Settings(bundles=(bundle, twin)), silent)


def test_a_collision_says_what_to_type_before_anything_is_loaded(
    bundle: Path, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {"topic": HeadSpec("classify", ["a", "b"]), "nli": HeadSpec("pair", ["x", "y"])}
    twins = [write_bundle(tmp_path / name, tokenizer, heads, "twin") for name in ("one", "two")]
    given, bundles = dict[str, str](), (bundle, *twins)
    monkeypatch.setattr("service.heads.open_session", None)
    for _ in range(4):
        with pytest.raises(SettingsError) as error:
            load_heads(Settings(bundles=bundles, rename=given), silent)
        flag = str(error.value).partition("--rename ")[2].split(",")[0]
        given |= Settings(rename=flag).rename
    monkeypatch.undo()
    served = load_heads(Settings(bundles=bundles, rename=given), silent)
    names = {"twin-topic", "twin-nli", "two-topic", "two-nli"}
    assert names < served.by_name.keys() and len(served.by_name) == 11
    assert served.find("classify", "two-topic").bundle.directory == twins[1]


def test_a_renamed_head_answers_as_before(bundle: Path) -> None:
    with serving(bundle, lanes=1) as served:
        expected = served.answer("/classify/topic", "the cat")
    with serving(bundle, lanes=1, rename="tiny:topic=subject,tiny:sentiment=topic") as served:
        assert served.answer("/classify/subject", "the cat") == expected
        assert len(served.answer("/classify/topic", "the cat")[0]) == 2
        assert served.client.get("/heads/subject").json()["labels"] == ["art", "law", "sea", "war"]
        assert served.client.get("/v2/models/subject").json()["name"] == "subject"
        assert served.post("/classify/sentiment", "the cat").status_code == 404


@pytest.mark.parametrize(
    ("rename", "words"),
    [
        ("tiny:topics=x", "no head tiny:topics to rename, expected one of tiny:sentiment, tiny:topic"),
        ("small:topic=x", "no head small:topic to rename"),
        ("tiny:topic=nli", "two heads of bundle tiny 'nli'"),
        ("tiny:topic=x,tiny:nli=x", "two heads of bundle tiny 'x'"),
    ],
)
def test_a_name_that_cannot_be_given(bundle: Path, rename: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load_heads(Settings(bundles=(bundle,), rename=rename), silent)


def test_a_missing_bundle_is_reported(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere"):
        load_heads(Settings(bundles=(tmp_path / "nowhere",)), silent)


def test_a_route_without_heads_says_where_to_look(other: Path) -> None:
    heads = load_heads(Settings(bundles=(other,)), silent)
    for name in (None, "x"):
        with pytest.raises(NotFound, match=r"/qa.*GET /heads"):
            heads.find("qa", name)


def test_the_shipped_bundle_has_its_weights_beside_its_graph() -> None:
    starter = read_bundle(STARTER)
    ids = starter.tokenizer.ids("a gripping, beautifully shot film")
    (logits,) = Session(starter).run([("sentiment", starter.tokenizer.single_row(ids, [0]))])
    assert logits.argmax() == starter.manifest.heads["sentiment"].labels.index("positive")
    assert "encoder.int8.bin" in starter.manifest.sha256


def test_files_that_change_under_a_server_change_nothing_and_kill_nothing(tmp_path: Path) -> None:
    """A map of a file shows what is written to it, and ends the process by SIGBUS once the file is shorter."""
    directory = Path(shutil.copytree(STARTER, tmp_path / "starter"))
    texts = [f"number {number} is a fine film, seen in Berlin" for number in range(8)]
    with process("--bundle", str(directory), "--lanes", "2") as (running, url), httpx.Client(base_url=url) as client:
        until(lambda: client.get("/health/ready").status_code == 200)

        def answers(text: str) -> list[bytes]:
            routes = "/classify/sentiment", "/tag/ner", "/fill-mask"
            found = [client.post(route, json={"inputs": text + " [MASK]"}, timeout=60) for route in routes]
            return [each.content for each in found if each.raise_for_status()]

        def all_answers() -> list[list[bytes]]:
            with ThreadPoolExecutor(4) as clients:
                return list(clients.map(answers, texts))

        expected = all_answers()
        files = [path for path in directory.rglob("*") if path.is_file()]
        for change in (lambda path: path.write_bytes(b"\x55" * path.stat().st_size), lambda path: os.truncate(path, 0)):
            with ThreadPoolExecutor(1) as vandal:
                changes = [vandal.submit(change, path) for path in files]
                while not all(each.done() for each in changes):
                    assert all_answers() == expected
            assert all_answers() == expected
        assert running.poll() is None
