"""If this breaks, Prometheus refuses its configuration, an outage wakes nobody, or false alarms wake everybody."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.programs import program

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
FILES = [path for path in sorted(PROMETHEUS.glob("*.yml")) if "groups" in yaml.safe_load(path.read_text())]
RULES: list[dict[str, Any]] = [
    rule for path in FILES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
CASES: dict[str, list[dict[str, Any]]] = yaml.safe_load((HERE / "alerts.yml").read_text())
ON_CALL = ROOT / "docs/on_call.md"


def promtool(*arguments: str) -> None:
    result = subprocess.run([program("promtool", package="prometheus"), *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    promtool("check", "rules", *map(str, FILES))


def test_every_rule_file_is_loaded() -> None:
    patterns = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["rule_files"]
    assert {path for pattern in patterns for path in PROMETHEUS.glob(pattern)} == set(FILES)


def fires(alert: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what promtool shall look for: the alert from `since` to `until`, and its rendered summary."""
    rule, interval = ALERTS[alert], int(case.get("interval", "1m")[:-1])
    unit = case.get("interval", "1m")[-1]
    expected = {
        "exp_labels": {**case["labels"], **rule["labels"]},
        "exp_annotations": {**rule["annotations"], "summary": case["summary"]},
    }
    return [
        {"alertname": alert, "eval_time": f"{interval * at}{unit}", "exp_alerts": [expected] if firing else []}
        for at, firing in ((case["since"] - 1, False), (case["since"], True), (case["until"], False))
    ]


def needed(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a rule after the rules that record what it asks for."""
    named = re.findall(r"bertheads:[\w:]+", rule["expr"])
    recorded = [each for name in dict.fromkeys(named) for each in RULES if each.get("record") == name]
    return [earlier for each in recorded for earlier in needed(each)] + [rule]


def write(directory: Path, alert: str, case: dict[str, Any], series: dict[str, str], **tests: Any) -> str:
    """Write the test of an alert on some series, and what the alert needs in one group, whose order is sure."""
    interval = case.get("interval", "1m")
    rules = {yaml.safe_dump(rule): rule for rule in needed(ALERTS[alert])}.values()
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    directory.mkdir()
    (directory / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": list(rules)}]}))
    whole = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": interval,
        "tests": [{"interval": interval, "input_series": inputs, **tests}],
    }
    (directory / "case.yml").write_text(yaml.safe_dump(whole))
    return str(directory / "case.yml")


def never(alert: str, case: dict[str, Any]) -> dict[str, Any]:
    """Return a query that finds nothing as long as an alert does not fire."""
    unit = case.get("interval", "1m")
    end = f"{int(unit[:-1]) * (case['until'] + 4)}{unit[-1]}"
    query = f'max_over_time(count(ALERTS{{alertname="{alert}", alertstate="firing"}})[{end}:{unit}])'
    return {"expr": query, "eval_time": end, "exp_samples": []}


EACH = {f"{alert} {number}": (alert, case) for alert, cases in CASES.items() for number, case in enumerate(cases)}
BELOW = {name: (alert, case) for name, (alert, case) in EACH.items() if "below" in case}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What promtool says of each case, by its name; one process tests all of them."""
    directory = tmp_path_factory.mktemp("alerts")
    files = {
        name: write(directory / name, *EACH[name], EACH[name][1]["series"], alert_rule_test=fires(*EACH[name]))
        for name in EACH
    }
    for name, (alert, case) in BELOW.items():
        below = write(directory / f"below {name}", alert, case, case["below"], promql_expr_test=[never(alert, case)])
        files[f"below {name}"] = below
    command = [program("promtool", package="prometheus"), "test", "rules", *files.values()]
    environment = {**os.environ, "GOGC": "400"}  # it otherwise spends a quarter of its time on collecting garbage
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    said = re.split(r"^Unit Testing:  (.+)$", ended.stdout + ended.stderr, flags=re.MULTILINE)
    found = dict(zip(said[1::2], said[2::2], strict=True))
    return {name: found[file].strip() for name, file in files.items()}


@pytest.mark.parametrize("name", EACH)
def test_it_fires_and_resolves(results: dict[str, str], name: str) -> None:
    assert results[name] == "SUCCESS"


@pytest.mark.parametrize("name", BELOW)
def test_just_below_it_does_not_fire(results: dict[str, str], name: str) -> None:
    assert results[f"below {name}"] == "SUCCESS"


def test_every_alert_has_a_case_for_firing_for_resolving_and_for_just_below() -> None:
    assert set(CASES) == set(ALERTS)
    for alert, cases in CASES.items():
        assert all({"series", "since", "until", "summary"} <= set(case) for case in cases), alert
        assert any("below" in case for case in cases), alert


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_says_what_where_and_what_to_do(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("page", "ticket")
    texts = rule["annotations"]
    assert set(texts) == {"summary", "description", "runbook_url"}
    assert "$labels." in texts["summary"]
    assert all(len(sentence.split()) <= 25 for text in texts.values() for sentence in re.split(r"[.;] ", text))
    assert texts["runbook_url"] == f"docs/on_call.md#{alert.lower()}"


def test_every_alert_has_a_section_and_every_section_an_alert() -> None:
    sections = re.findall(r"^### (Bertheads\w+)$", ON_CALL.read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(ALERTS)


def test_the_log_has_what_the_on_call_page_looks_for() -> None:
    source = "".join(path.read_text() for path in (ROOT / "service").glob("*.py"))
    source = source.replace("%s", "x").replace("%d", "1")
    patterns = re.findall(r'grep (?:-\w \d+ )*"([^"]+)"', ON_CALL.read_text())
    assert patterns
    for pattern in patterns:
        assert all(part.strip() in source for part in pattern.split(".*")), pattern


def test_settings_that_the_on_call_page_names_exist() -> None:
    known = {f"BERTHEADS_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"BERTHEADS_\w+", ON_CALL.read_text())) <= known


def test_the_alertmanager_is_told_of_alerts_that_exist() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", ON_CALL.read_text(), re.DOTALL)
    for rule in yaml.safe_load(text)["inhibit_rules"]:
        names = re.findall(r"Bertheads\w+", str(rule))
        assert set(names) <= set(ALERTS)
        assert rule["equal"] in (["job"], ["job", "instance"])
