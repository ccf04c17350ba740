"""If this breaks, `docker compose up` starts services that cannot find their files or each other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from service.traces import open_traces

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROMETHEUS: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
SOURCE, TRACES = (
    yaml.safe_load((DEPLOY / f"grafana/provisioning/datasources/{name}.yaml").read_text())["datasources"][0]
    for name in ("prometheus", "tempo")
)
COLLECTOR: dict[str, Any] = yaml.safe_load((DEPLOY / "traces/collector.yaml").read_text())
TEMPO: dict[str, Any] = yaml.safe_load((DEPLOY / "traces/tempo.yaml").read_text())
PROVIDER: dict[str, Any] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/bertheads.yaml").read_text())[
    "providers"
][0]
DOCKERFILE = (DEPLOY.parent / "Dockerfile").read_text()


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Return the files of this repository that a service sees, by the path where it sees them."""
    split = [volume.split(":") for volume in service.get("volumes", [])]
    return {parts[1]: DEPLOY / parts[0] for parts in split if parts[0].startswith(".")}


def container_port(name: str) -> str:
    (port,) = SERVICES[name]["ports"]
    return str(port.rsplit(":", 1)[1])


def test_services() -> None:
    assert set(SERVICES) == {"bertheads", "prometheus", "collector", "tempo", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    assert all(volume.endswith(":ro") for volume in service.get("volumes", []) if volume.startswith("."))


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"bertheads"}))
def test_image_has_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    assert all(path.exists() for path in mounts(SERVICES[name]).values())
    named = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", []) if not volume.startswith(".")]
    assert set(named) <= set(COMPOSE["volumes"])


def test_the_image_is_built_from_here() -> None:
    build = SERVICES["bertheads"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY.parent / "Dockerfile"
    assert SERVICES["bertheads"]["read_only"]


def test_the_service_listens_where_all_expect_it() -> None:
    port = container_port("bertheads")
    assert f"EXPOSE {port}\n" in DOCKERFILE
    assert f"BERTHEADS_PORT={port}\n" in DOCKERFILE
    assert int(port) == Settings.model_fields["port"].default
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"bertheads:{port}"]}]


def test_variables_are_settings() -> None:
    ours = {name for name in SERVICES["bertheads"]["environment"] if not name.startswith("OTEL_")}
    given = ours | set(re.findall(r"\bBERTHEADS_\w+(?==)", DOCKERFILE))
    assert given <= {f"BERTHEADS_{name.upper()}" for name in Settings.model_fields}


def test_the_service_may_drain() -> None:
    grace = float(SERVICES["bertheads"]["stop_grace_period"].removesuffix("s"))
    defaults = Settings.model_fields
    assert grace > defaults["drain_delay"].default + defaults["drain_timeout"].default


def test_prometheus_finds_its_rules() -> None:
    (flag,) = [f for f in SERVICES["prometheus"]["command"] if f.startswith("--config.file=")]
    directory = mounts(SERVICES["prometheus"])[str(Path(flag.partition("=")[2]).parent)]
    assert (directory / "prometheus.yml").exists()
    assert all(any(directory.glob(rules)) for rules in PROMETHEUS["rule_files"] if "*" not in rules)


def test_grafana_finds_prometheus() -> None:
    assert SOURCE["url"] == f"http://prometheus:{container_port('prometheus')}"
    assert SOURCE["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    dashboard = json.loads((DEPLOY / "grafana/dashboards/bertheads.json").read_text())
    (chosen,) = [v for v in dashboard["templating"]["list"] if v["type"] == "datasource"]
    assert chosen["current"]["value"] == SOURCE["uid"]


def test_grafana_finds_its_dashboard() -> None:
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert str(Path(home).parent) == PROVIDER["options"]["path"]
    assert (mounts(SERVICES["grafana"])[PROVIDER["options"]["path"]] / Path(home).name).exists()


# ---- traces: the service -> the collector -> Tempo <- Grafana ----


def listens(configuration: dict[str, Any]) -> str:
    """Return the address at which spans come in by OTLP over HTTP."""
    return str(configuration["receivers"]["otlp"]["protocols"]["http"]["endpoint"])


def test_the_service_finds_the_collector(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    given = {name: value for name, value in SERVICES["bertheads"]["environment"].items() if name.startswith("OTEL_")}
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318" and listens(COLLECTOR) == "0.0.0.0:4318"
    for name, value in given.items():
        monkeypatch.setenv(name, re.sub(r"\$\{\w+:-(.*)\}", r"\1", value))
    found = open_traces()
    assert found and not caplog.records  # the SDK understands every one of them
    assert "TraceIdRatioBased{0.01}" in found._sampler.get_description()
    found.close(0.0)


def test_the_collector_finds_the_store() -> None:
    (pipeline,) = COLLECTOR["service"]["pipelines"].values()
    for kind in ("receivers", "processors", "exporters"):
        assert pipeline[kind] == list(COLLECTOR[kind])
    assert COLLECTOR["exporters"]["otlphttp"]["endpoint"] == "http://tempo:4318"
    assert listens(TEMPO["distributor"]) == "0.0.0.0:4318"
    flags = {"collector": "--config=", "tempo": "-config.file="}
    for name, flag in flags.items():
        (command,) = SERVICES[name]["command"]
        assert mounts(SERVICES[name])[command.removeprefix(flag)].name == f"{name}.yaml"


def test_the_store_writes_where_it_may() -> None:
    volumes = dict(volume.split(":")[:2] for volume in SERVICES["tempo"]["volumes"])
    storage = TEMPO["storage"]["trace"]
    assert all(storage[each]["path"].startswith(volumes["tempo"] + "/") for each in ("wal", "local"))
    assert all(SERVICES[name]["read_only"] for name in ("collector", "tempo"))


def test_a_latency_leads_to_its_trace() -> None:
    (link,) = SOURCE["jsonData"]["exemplarTraceIdDestinations"]
    assert link == {"name": "trace_id", "datasourceUid": TRACES["uid"]}
    assert TRACES["url"] == f"http://tempo:{TEMPO['server']['http_listen_port']}" and TRACES["type"] == "tempo"
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]
    dashboard = json.loads((DEPLOY / "grafana/dashboards/bertheads.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert any(target.get("exemplar") and "request_seconds_bucket" in target["expr"] for target in targets)
