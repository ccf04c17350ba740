"""If this breaks, a pod of our manifests is killed while it loads, or loses requests when it ends."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.deploy.manifests import DEPLOY, Document, build, read
from tests.programs import program
from tests.service.processes import answers, half_sent
from tests.service.serving import until

ASKED = {"inputs": "A gorgeous, witty film."}


@pytest.fixture(scope="module")
def base() -> list[Document]:
    return build(DEPLOY / "kubernetes/base")


@contextmanager
def pod(variables: list[Document], directory: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run the service with the variables of a container and no others, but on a free local port."""
    given = {each["name"]: each["value"] for each in variables if "value" in each}
    local = {"BERTHEADS_HOST": "127.0.0.1", "BERTHEADS_PORT": "0", "TMPDIR": str(directory), "OMP_NUM_THREADS": "1"}
    here = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-m", "service"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=given | local | here)
    assert running.stderr
    try:
        line = json.loads(running.stderr.readline())  # BERTHEADS_LOG_FORMAT=json
        yield running, re.findall(r"listening on (\S+)", str(line))[0].strip("'\",}")
    finally:
        running.kill()
        running.communicate()


def probe(url: str, probes: Document, name: str) -> int:
    """Ask as the kubelet does; a connection that fails or takes too long counts as 0."""
    asked = probes[f"{name}Probe"]
    try:
        return httpx.get(url + asked["httpGet"]["path"], timeout=asked.get("timeoutSeconds", 1)).status_code
    except httpx.TransportError:
        return 0


@pytest.mark.slow
def test_a_pod_starts_serves_and_drains(base: list[Document], tmp_path: Path) -> None:
    (deployment,) = [document for document in base if document["kind"] == "Deployment"]
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    with pod(container["env"], tmp_path) as (running, url):
        statuses = []
        while (status := probe(url, container, "startup")) != 200:
            statuses.append(status)
            assert probe(url, container, "liveness") == 200, "a pod that loads is killed"
            assert len(statuses) < 2000 and running.poll() is None
        assert set(statuses) == {503}
        assert probe(url, container, "readiness") == 200
        with half_sent(url) as slow:
            running.send_signal(signal.SIGTERM)
            until(lambda: probe(url, container, "readiness") == 503)
            assert probe(url, container, "liveness") == 200
            assert httpx.post(f"{url}/classify", json=ASKED).status_code == 200  # who has not heard yet is answered
            until(lambda: not answers(url))  # the port is closed
            slow.sendall(b' "the cat"}')
            assert slow.recv(1000).startswith(b"HTTP/1.1 200"), "a request in flight is lost"
        assert running.wait(spec["terminationGracePeriodSeconds"]) == 0
    assert not list(tmp_path.iterdir())  # what was in /tmp while graphs were opened


def test_kserve_reaches_the_model_under_its_own_name(tmp_path: Path) -> None:
    (runtime,) = read((DEPLOY / "kserve/servingruntime.yaml").read_text())
    (container,) = runtime["spec"]["containers"]
    variables = [
        each | {"value": each["value"].replace("{{.Name}}", "mine")}
        for each in container["env"]
        if each["name"] != "BERTHEADS_BUNDLES"
    ]
    key = {"name": "BERTHEADS_API_KEY", "value": "secret"}  # which no probe has
    with pod([*variables, key], tmp_path) as (_, url):
        until(lambda: probe(url, container, "startup") == 200)
        assert probe(url, container, "readiness") == probe(url, container, "liveness") == 200
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [ASKED["inputs"]]}]}
        headers = {"Authorization": "Bearer secret"}
        answer = httpx.post(f"{url}/v2/models/mine/infer", json=body, headers=headers).json()
        assert answer["model_name"] == "mine" and answer["outputs"]


# ---- scaling ---------------------------------------------------------------------------------------------------------


def triggers() -> dict[str, dict[str, str]]:
    """Return what the ScaledObject says of each query, by its name as a metric."""
    (scaler,) = read((DEPLOY / "kubernetes/overlays/keda/scaledobject.yaml").read_text())
    return {each["name"].replace("-", "_"): each["metadata"] for each in scaler["spec"]["triggers"]}


def check_queries(tmp_path: Path, given: dict[str, str], expected: dict[str, float]) -> None:
    """Let promtool assert what each query gives after five minutes of these series; nothing, if not expected."""
    rules = [{"record": name, "expr": each["query"]} for name, each in triggers().items()]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "scaling", "rules": rules}]}))
    samples = {name: [{"labels": name, "value": value}] for name, value in expected.items()}
    tested = {
        "interval": "10s",
        "input_series": [{"series": name, "values": values} for name, values in given.items()],
        "promql_expr_test": [
            {"expr": name, "eval_time": "5m", "exp_samples": samples.get(name, [])} for name in triggers()
        ],
    }
    contents = {"rule_files": ["rules.yml"], "evaluation_interval": "10s", "tests": [tested]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(contents))
    command = [program("promtool", package="prometheus"), "test", "rules", str(tmp_path / "test.yml")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def series(instance: str, waiting: int, busy: float, pods: int, namespace: str = "bertheads") -> dict[str, str]:
    """Return the series of pods with this many waiting tokens and busy lanes."""
    found = {}
    for number in range(pods):
        labels = f'{{namespace="{namespace}",app_kubernetes_io_instance="{instance}",pod="{instance}-{number}"}}'
        found[f"bertheads_queue_tokens{labels}"] = f"{waiting}x30"
        found[f"bertheads_lane_busy_seconds_total{labels}"] = f"0+{busy * 10:g}x30"
    return found


def test_pods_follow_queued_tokens_and_busy_lanes(tmp_path: Path) -> None:
    others = series("bertheads-canary", 90_000, 2.0, 1) | series("bertheads", 90_000, 2.0, 4, namespace="elsewhere")
    totals = {"queued_tokens": 1500.0, "busy_lanes": 4.5}
    check_queries(tmp_path, series("bertheads", 500, 1.5, 3) | others, totals)
    wanted = {name: total / float(triggers()[name]["threshold"]) for name, total in totals.items()}
    assert math.ceil(max(wanted.values())) == 4  # the example of docs/operating.md


def test_a_lost_prometheus_does_not_read_as_zero(tmp_path: Path) -> None:
    check_queries(tmp_path, {"up": "1x30"}, {})
    assert all(each["ignoreNullValues"] == "false" for each in triggers().values())
    (scaler,) = read((DEPLOY / "kubernetes/overlays/keda/scaledobject.yaml").read_text())
    assert scaler["spec"]["fallback"]["replicas"] >= scaler["spec"]["minReplicaCount"]
