"""If this breaks, a key that was taken away still opens, a new one does not, or a log shows a key."""

import logging
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import keys as module
from service import logs
from service.__main__ import main
from service.errors import SettingsError
from service.keys import Guesses, Key, Keys, read_keys
from service.metrics import Metrics
from service.middleware import RequestInfo
from service.settings import Settings
from tests.service.serving import Served, serving, until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alice k1", [("k1", Key("alice"))]),
        ("alice k1\nbob k2 2.5\n", [("k1", Key("alice")), ("k2", Key("bob", 2.5))]),
        ("# who\r\n\r\n alice\t k1 \r\n\tbob  k2\t.5\r\n", [("k1", Key("alice")), ("k2", Key("bob", 0.5))]),
        ("\ufeffalice k1\n", [("k1", Key("alice"))]),
        ("alice schlüssel\nbob k#2=", [("schlüssel", Key("alice")), ("k#2=", Key("bob"))]),
        ("alice old\nalice new\n", [("old", Key("alice")), ("new", Key("alice"))]),
        ("s3cret", [("s3cret", Key("default"))]),
        ("\n# the key\n  s3cret \r\n\n", [("s3cret", Key("default"))]),
        ("alice a\u2028b\x85c", [("a\u2028b\x85c", Key("alice"))]),
    ],
)
def test_lines_are_keys(path: Path, text: str, expected: list[tuple[str, Key]]) -> None:
    assert read_keys(write(path, text)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no key"),
        ("\n \n# alice k1\n", "has no key"),
        ("alice\nbob k2", "line 1 has 1 word;"),
        ("bob k2\n\nalice \n", "line 3 has 1 word;"),
        ("alice k1 2 x", "line 1 has 4 words;"),
        ("al:ice k1", "line 1 begins with a name"),
        ("a" * 65 + " k1", "line 1 begins with a name"),
        ("alice k1 0", "line 1 has a weight"),
        ("alice k1 -1", "line 1 has a weight"),
        ("alice k1 nan", "line 1 has a weight"),
        ("alice k1 inf", "line 1 has a weight"),
        ("alice k1 heavy", "line 1 has a weight"),
        ("alice k1\nbob k1", "line 2 has the key of line 1"),
        ("alice k1 2\nalice k2", "line 2 has the name of line 1 with another weight"),
        ("alice k1\nbob k\x00k", "line 2 has a control character"),
        ("k\x7fk", "line 1 has a control character"),
        ("x" * (module.MAX_FILE_BYTES + 1), "has more than"),
    ],
)
def test_a_wrong_line_is_named_and_never_shown(path: Path, text: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_keys(write(path, text))
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} {says}")
    assert not {"alice", "bob", "k1", "k2", "heavy"} & set(sentence.replace(";", "").split())


def test_a_path_that_is_not_a_file_is_one_sentence(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("alice schlüssel".encode("latin-1"))
    for name, says in [("missing", "not a read"), ("pipe", "not a read"), ("", "not a read"), ("latin", "not UTF-8")]:
        with pytest.raises(SettingsError, match=says):
            read_keys(tmp_path / name)


@pytest.mark.usefixtures("unconfigured")
def test_a_wrong_file_ends_the_start(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--api-keys-file", str(write(path, "alice s3cret heavy"))]) == 1
    error = capsys.readouterr().err
    assert f"{path} line 1" in error and error.count("\n") == 1 and "s3cret" not in error


def made(path: Path | None, single: str | None = None) -> tuple[Keys, Metrics]:
    metrics = Metrics()
    return Keys(path, single, metrics), metrics


def test_no_key_is_required_if_none_is_set(path: Path) -> None:
    assert not made(None)[0].required
    assert made(None, "k")[0].required and made(write(path, "k"))[0].required


def test_keys_of_the_setting_and_of_the_file_are_both_valid(path: Path) -> None:
    keys, _ = made(write(path, "alice k1 3"), "s3cret")
    assert keys.find(b"k1") == Key("alice", 3.0) and keys.find(b"s3cret") == Key("default")
    assert keys.find(b"") is keys.find(b"k") is keys.find(b"alice") is keys.find(b"k1 3") is None


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_letters_beyond_ascii_come_in_either_encoding(encoding: str) -> None:
    keys, _ = made(None, "schlüssel")
    assert keys.find("schlüssel".encode(encoding)) == Key("default")


def test_a_change_of_the_file_is_a_change_of_the_keys(path: Path) -> None:
    keys, _ = made(write(path, "alice k1"))
    write(path, "alice k2")
    keys.look()
    assert keys.find(b"k1") is None and keys.find(b"k2") == Key("alice")


def test_a_secret_of_kubernetes_changes_by_a_link(tmp_path: Path) -> None:
    """The file is a link through ..data to a directory of a date, and ..data is replaced."""
    for version, key in (("..1", "k1"), ("..2", "k2")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "keys", f"alice {key}")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    keys, _ = made(tmp_path / "keys")
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    keys.look()
    assert keys.find(b"k1") is None and keys.find(b"k2") == Key("alice")


def test_a_file_that_breaks_keeps_its_keys(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys, metrics = made(write(path, "alice k1"))
    path.unlink()
    keys.look()
    keys.look()
    write(path, "bob s3cret heavy")
    keys.look()
    keys.look()
    assert keys.find(b"k1") == Key("alice") and keys.find(b"s3cret") is None
    assert metrics.registry.get_sample_value("bertheads_key_file_errors_total") == 2
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(messages) == 2 and "not a readable" in messages[0] and "line 1" in messages[1]
    assert "s3cret" not in caplog.text and "k1" not in caplog.text
    write(path, "bob k2")
    keys.look()
    assert keys.find(b"k1") is None and keys.find(b"k2") == Key("bob")


def test_a_failed_read_is_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may fail for a moment, and the file is then as it was."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    write(path, "alice k1")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "open", fail)
        keys, _ = made(path)
        assert keys.required and keys.find(b"k1") is None
    keys.look()
    assert keys.find(b"k1") == Key("alice")


@pytest.fixture
def keyed(bundle: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("service.keys.LOOK_SECONDS", 0.01)
    write(path, "alice k1 2\nbob k2")
    with serving(bundle, lanes=1, api_keys_file=path) as served:
        yield served


def status(served: Served, key: str) -> int:
    return httpx.get(f"{served.url}/heads", headers={"Authorization": f"Bearer {key}"}).status_code


def test_keys_change_while_the_service_runs(keyed: Served, path: Path) -> None:
    assert [status(keyed, key) for key in ("k1", "k2", "k3")] == [200, 200, 401]
    replaced = write(path.with_name("new"), "alice k1\nalice k3")
    replaced.rename(path)
    until(lambda: status(keyed, "k3") == 200)
    assert [status(keyed, key) for key in ("k1", "k2", "k3")] == [200, 401, 200]
    path.unlink()
    until(lambda: keyed.sample("key_file_errors_total") == 1)
    assert [status(keyed, key) for key in ("k1", "k2", "k3")] == [200, 401, 200]
    assert keyed.sample("key_file_broken") == 1
    write(path, "alice k3")
    until(lambda: keyed.sample("key_file_broken") == 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (None, "there is no key"),
        ("", "there is no key"),
        ("Bearer", "there is no key"),
        ("Bearer k9", "the key is wrong"),
        ("k1", "Authorization does not begin with Bearer"),
        ("Basic k1", "Authorization does not begin with Bearer"),
        ("Bearer\tk1", "Authorization does not begin with Bearer"),
    ],
)
def test_a_refusal_says_what_is_wrong_with_the_header(keyed: Served, given: str | None, says: str) -> None:
    headers = {"Authorization": given} if given is not None else {}
    answer = httpx.post(f"{keyed.url}/classify", json={"inputs": "a"}, headers=headers)
    wanted = f"{says}; send the header Authorization: Bearer KEY"
    assert (answer.status_code, answer.json()["detail"]) == (401, wanted)


def test_the_name_of_the_key_is_in_log_and_metrics(
    keyed: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    infos = [RequestInfo("r", 0.0) for _ in range(4)]
    given = iter(infos)
    monkeypatch.setattr("service.middleware.start_info", lambda _: next(given, RequestInfo("r", 0.0)))
    caplog.set_level(logging.INFO, "service.access")
    for key in ("k1", "k1", "k2", "wrong"):
        status(keyed, key)
    records = [getattr(record, logs.FIELDS) for record in caplog.records if record.name == "service.access"]
    assert [fields.get("key") for fields in records] == ["alice", "alice", "bob", None]
    assert [(info.key, info.weight) for info in infos] == [("alice", 2.0)] * 2 + [("bob", 1.0), ("", 1.0)]
    assert keyed.sample("key_requests_total", key="alice", status="2xx") == 2
    assert keyed.sample("key_requests_total", key="bob", status="2xx") == 1
    assert 'bertheads_key_requests_total{key="bob",status="5xx"} 0.0' in keyed.client.get("/metrics").text
    assert "k1" not in caplog.text


@pytest.mark.parametrize("given", ["s3cret\n", " s3cret", "s3cret \r\n"])
def test_spaces_around_a_key_are_ignored(bundle: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("BERTHEADS_API_KEY", given)
    with serving(bundle, lanes=1) as served:
        assert status(served, "s3cret") == 200 and status(served, "s3cre") == 401


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize("given", [" \n", "s3\ncret", "s3\x00cret"])
def test_a_key_that_nobody_could_send_ends_the_start(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--api-key", given, "--port", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("bertheads-serve: --api-key (BERTHEADS_API_KEY) is given: ") and "s3" not in error


def test_a_file_of_keys_protects_metrics_too(path: Path) -> None:
    assert Settings(api_keys_file=write(path, "k"), protect_metrics=True).asks_for_key


def test_guesses_count_per_network_and_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("service.keys.time", type("Time", (), {"monotonic": staticmethod(lambda: now)}))
    guesses = Guesses()
    assert [guesses.note("1.2.3.4") for _ in range(12)] == [False] * 10 + [True] * 2
    assert not guesses.note("1.2.3.5") and not guesses.note("::ffff:1.2.3.6")
    assert [guesses.note(f"2001:db8::{number:x}") for number in range(11)][-1]
    assert not guesses.note("2001:db8:0:1::1") and not guesses.note("")
    assert guesses.note("::ffff:1.2.3.4")
    now = 61.0
    assert not guesses.note("1.2.3.4")


def test_the_addresses_of_guesses_are_bounded_and_the_quietest_is_forgotten() -> None:
    guesses = Guesses()
    for number in range(2 * module.MAX_ADDRESSES):
        if number % 400 == 0:
            for _ in range(module.MAX_GUESSES if number == 0 else 1):
                guesses.note("1.2.3.4")
            counted = guesses._recent["1.2.3.4"][0]
            assert counted == module.MAX_GUESSES + number // 400
        guesses.note(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guesses._recent) == module.MAX_ADDRESSES
    assert "10.0.0.0" not in guesses._recent
