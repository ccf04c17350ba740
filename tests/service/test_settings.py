"""If this breaks, a setting is ignored, or a wrong one is not named."""

import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from service.__main__ import main, parse, settings
from service.errors import SettingsError
from service.settings import STARTER, Settings


def read(*flags: str) -> Settings:
    return settings(parse(flags))


def test_the_starter_bundle_is_served_by_default_and_to_this_machine_only() -> None:
    chosen = read()
    assert chosen.bundles == (STARTER,) and STARTER.parts[-2:] == ("models", "starter")
    assert (chosen.host, chosen.port, chosen.workers, chosen.api_key) == ("127.0.0.1", 8000, 0, None)


def test_bundles_come_by_flags_or_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTHEADS_BUNDLES", "a, b,")
    assert read().bundles == (Path("a"), Path("b"))
    assert read("--bundle", "c", "--bundle", "d,e").bundles == (Path("c"), Path("d"), Path("e"))


def test_new_names_come_by_flags_or_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTHEADS_RENAME", "mine:classify=support, models/other/:tag=people")
    expected = {"mine:classify": "support", "models/other:tag": "people"}
    assert read().rename == expected
    assert read("--rename", "mine:classify=support", "--rename", "models/other:tag=people").rename == expected


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTHEADS_PORT", "9000")
    monkeypatch.setenv("BERTHEADS_MAX_ITEMS", "7")
    monkeypatch.setenv("BERTHEADS_DEADLINE", "")
    chosen = read("--port", "9001", "--protect-metrics", "--api-key", "k")
    assert (chosen.port, chosen.max_items, chosen.deadline, chosen.protect_metrics) == (9001, 7, 30.0, True)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_flag_and_a_description(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    assert f"--{name.replace('_', '-')}" in capsys.readouterr().out
    assert Settings.model_fields[name].description


def test_help_fits_80_columns_and_names_choices_defaults_and_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        parse(["--help"])
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    for expected in ("--provider {cpu,cuda}", "--log-level {debug,info,warning,error}", "default the starter bundle"):
        assert expected in told
    examples = [line.split()[1:] for line in told.partition("examples:")[2].splitlines() if line.strip()]
    assert [parse(words) for words in examples] == [{}, {"bundles": "models/starter,tickets", "port": "8080"}]


def test_a_key_given_as_a_flag_causes_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, unconfigured: None
) -> None:
    """Other users of a machine can read the flags of a process."""

    def stop(*_: object) -> None:
        raise SettingsError("stopped")

    monkeypatch.setattr("service.listener.listen", stop)
    monkeypatch.setattr("service.logs.configure", lambda *_: None)
    assert main(["--api-key", "secret"]) == 1
    assert "--api-key" in caplog.text and "BERTHEADS_API_KEY" in caplog.text and "secret" not in caplog.text
    caplog.clear()
    monkeypatch.setenv("BERTHEADS_API_KEY", "secret")
    assert main([]) == 1 and not caplog.text


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "70000"], "--port (BERTHEADS_PORT) is '70000'"),
        (["--port", "http"], "--port (BERTHEADS_PORT) is 'http': must be a whole number"),
        (["--precision", "int4"], "'int8', 'fp16' or 'fp32'"),
        (["--provider", "tpu"], "'cpu' or 'cuda'"),
        (["--deadline", "0"], "--deadline"),
        (["--deadline", "nan"], "--deadline"),
        (["--workers", "-1"], "--workers"),
        (["--bundle", ""], "--bundles"),
        (["--protect-metrics"], "BERTHEADS_API_KEY"),
        (["--host", "256.0.0.1"], "--host"),
        (["--rename", "classify=support"], "'classify=support' is not BUNDLE:HEAD=NEW"),
        (["--rename", "mine:classify=two words"], "is not BUNDLE:HEAD=NEW"),
        (["--rename", "a:b=c", "--rename", "a:b=d"], "'a:b' is given twice"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(
    flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 1
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.usefixtures("unconfigured")
def test_a_wrong_key_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--api-key", "", "--port", "1"]) == 1
    assert "--api-key (BERTHEADS_API_KEY) is given" in capsys.readouterr().err


def test_the_key_is_in_no_representation() -> None:
    assert "s3cret" not in repr(read("--api-key", "s3cret"))


def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTHEADS_LANE", "2")
    with pytest.raises(SettingsError, match="did you mean BERTHEADS_LANES"):
        read()


def test_what_kubernetes_sets_beside_a_service_of_this_name_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    links = {
        "PORT": "tcp://10.0.0.1:80",
        "PORT_80_TCP_ADDR": "10.0.0.1",
        "SERVICE_HOST": "10.0.0.1",
        "SERVICE_PORT_HTTP": "80",
    }
    for name, value in links.items():
        monkeypatch.setenv(f"BERTHEADS_{name}", value)
    assert read().port == 8000
    assert not [name for name in os.environ if name.startswith("BERTHEADS_")]


@pytest.mark.parametrize(
    ("cores", "given", "workers", "lanes"),
    [
        (1, {}, 1, 1),
        (2, {}, 1, 2),
        (4, {}, 1, 4),
        (6, {}, 2, 3),
        (8, {}, 2, 4),
        (32, {}, 8, 4),
        (96, {}, 24, 4),
        (32, {"threads": 4}, 8, 1),
        (32, {"threads": 16}, 2, 1),
        (8, {"threads": 16}, 1, 1),
        (8, {"workers": 1}, 1, 8),
        (8, {"workers": 4}, 4, 2),
        (8, {"workers": 1, "threads": 4}, 1, 2),
        (8, {"workers": 16}, 16, 1),
        (32, {"lanes": 3}, 1, 3),
        (32, {"workers": 2, "lanes": 3}, 2, 3),
        (1, {"provider": "cuda"}, 1, 2),
        (6, {"provider": "cuda", "lanes": 3}, 5, 3),
        (32, {"provider": "cuda"}, 8, 2),
        (32, {"provider": "cuda", "device": "0,1,2,3"}, 28, 2),
        (32, {"provider": "cuda", "workers": 2}, 2, 2),
    ],
)
def test_the_defaults_use_each_core_once(
    cores: int, given: dict[str, Any], workers: int, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settings.usable_cores", lambda: cores)
    chosen = Settings(**given)
    assert (chosen.worker_count, chosen.lane_count) == (workers, lanes)


def test_devices_are_numbers_of_gpus() -> None:
    assert Settings().device == (0,) and Settings(provider="cuda", device="1, 0").device == (1, 0)
    for given, sentence in (
        ({"device": "1"}, "device is 1, but the provider cpu has only device 0; set provider to cuda"),
        ({"device": "0,0", "provider": "cuda"}, "device is 0,0, expected different numbers from 0"),
        ({"device": "-1", "provider": "cuda"}, "device is -1, expected different numbers from 0"),
        ({"device": "a", "provider": "cuda"}, "unable to parse string as an integer"),
        ({"device": "", "provider": "cuda"}, "at least 1 item"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Settings(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "fronts"),
    [
        ({"workers": 4}, False),
        ({"provider": "cuda"}, False),
        ({"provider": "cuda", "workers": 2}, True),
        ({"provider": "cuda", "device": "0,1"}, True),
    ],
)
def test_workers_are_fronts_where_several_would_share_a_gpu(given: dict[str, Any], fronts: bool) -> None:
    assert Settings(**given).has_fronts is fronts


def test_a_worker_counts_as_many_workers_as_its_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.usable_cores", lambda: 32)
    chosen = read()
    assert chosen.worker_count == 8
    monkeypatch.setattr("service.settings.usable_cores", lambda: 4)
    assert pickle.loads(pickle.dumps(chosen)).worker_count == 8


def test_help_is_in_short_sentences() -> None:
    for name, setting in Settings.model_fields.items():
        assert setting.description
        for sentence in re.split(r"[;.] ", setting.description):
            assert len(sentence.split()) <= 25, name
