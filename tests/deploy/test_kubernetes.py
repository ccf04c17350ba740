"""If this breaks, a manifest names settings, paths, metrics or other manifests that do not exist."""

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import opentelemetry.sdk.environment_variables as telemetry
import pytest
import yaml

from service.app import create_app
from service.metrics import Metrics
from service.settings import PREFIX, Settings
from service.supervisor import END_SECONDS
from tests.deploy.manifests import (
    COMPONENTS,
    DEPLOY,
    KSERVE,
    KUBERNETES,
    OVERLAYS,
    Document,
    all_documents,
    build,
    containers,
    kustomization,
    one,
    walk,
)

DOCKERFILE = (DEPLOY.parent / "Dockerfile").read_text()
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
BUSY = 0.7
"""Share of its lanes that a pod may use before there should be more pods."""
PROMETHEUS_TRIGGER = {"serverAddress", "query", "threshold", "ignoreNullValues"}
"""What we use of what KEDA's scaler takes; its metadata is a map of any strings to the schema."""


def pod_specs(document: Document) -> Iterator[Document]:
    """Yield what holds containers."""
    yield from (value for _, value in walk(document) if isinstance(value, dict) and "containers" in value)


def services(documents: list[Document]) -> list[Document]:
    """Return all containers that run the service."""
    names = {"bertheads", "kserve-container"}
    return [each for document in documents for each in containers(document) if each["name"] in names]


def variables(container: Document) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


def settings_of(container: Document) -> Settings:
    """Return what the service makes of the variables of a container."""
    given = {name: text for name, text in variables(container).items() if name.startswith(PREFIX) and text}
    return Settings(**{name.removeprefix(PREFIX).lower(): text for name, text in given.items()})  # type: ignore[arg-type]


def queries(documents: list[Document]) -> list[str]:
    return [value for document in documents for path, value in walk(document) if path[-1:] == ("query",)]


# ---- against the code ------------------------------------------------------------------------------------------------


def test_variables_are_settings(built: dict[str, list[Document]]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    others = {value for name, value in vars(telemetry).items() if name.startswith("OTEL_")}
    for container in services(all_documents(built)):
        assert set(variables(container)) <= known | others | {"POD_NAME"}
        assert settings_of(container)


def test_probes_are_routes(built: dict[str, list[Document]]) -> None:
    paths = {getattr(route, "path", "") for route in create_app(Settings()).routes}
    for container in services(all_documents(built)):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["path"] in paths
            assert port_of(container, asked["port"]) == settings_of(container).port
            assert asked["path"].endswith("/live" if probe == "livenessProbe" else "/ready")


def port_of(container: Document, named: str | int) -> int:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert named in ports or named in ports.values()
    return int(ports.get(named, named))


def test_metrics_are_served_where_prometheus_scrapes_them(built: dict[str, list[Document]]) -> None:
    paths = {getattr(route, "path", "") for route in create_app(Settings()).routes}
    monitor = one(built["overlays/keda"], "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    pod = one(built["overlays/keda"], "Deployment")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert endpoint["path"] in paths and port_of(container, endpoint["port"])
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    rules = (DEPLOY / "prometheus/alerts.yml").read_text()
    assert f'job="{pod["metadata"]["labels"][monitor["spec"]["jobLabel"]]}"' in rules
    annotations = one(KSERVE, "ServingRuntime")["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/path"] in paths
    assert int(annotations["prometheus.kserve.io/port"]) == settings_of(services(KSERVE)[0]).port


def test_queries_name_metrics(built: dict[str, list[Document]]) -> None:
    known = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples}
    asked = [name for query in queries(all_documents(built)) for name in re.findall(r"\bbertheads_\w+", query)]
    assert {"bertheads_queue_tokens", "bertheads_lane_busy_seconds_total"} == set(asked) <= known


def test_the_drain_fits_into_the_grace_period(built: dict[str, list[Document]]) -> None:
    (kserve,) = services(KSERVE)
    for document in all_documents(built):
        for spec in pod_specs(document):
            for container in services([{"containers": spec["containers"]}]):
                settings = settings_of(container)
                longest = settings.drain_delay + 2 * settings.drain_timeout + END_SECONDS
                if container != kserve:
                    assert spec["terminationGracePeriodSeconds"] >= longest
                assert settings.drain_delay > 0 and settings.drain_timeout >= settings.deadline
    service = one(KSERVE, "InferenceService", "sentiment")["spec"]
    predictors = [service["predictor"], *(canary["predictor"] for canary in service["canary"])]
    assert all(predictor["terminationGracePeriodSeconds"] >= longest for predictor in predictors)


def test_lanes_are_whole_cores(built: dict[str, list[Document]]) -> None:
    for container in services(all_documents(built)):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert set(requests) == {"cpu", "memory"} and set(limits) <= {"cpu", "memory", "nvidia.com/gpu"}
        assert requests["cpu"] == limits["cpu"] and limits["cpu"].isdigit()
        assert settings_of(container).workers == 1


def test_scaling_thresholds_are_per_pod(built: dict[str, list[Document]]) -> None:
    (container,) = services([one(built["overlays/keda"], "Deployment")])
    lanes = int(container["resources"]["limits"]["cpu"])
    triggers = {each["name"]: each for each in one(built["overlays/keda"], "ScaledObject")["spec"]["triggers"]}
    assert float(triggers["busy-lanes"]["metadata"]["threshold"]) == BUSY * lanes
    assert all(each["metricType"] == "AverageValue" for each in triggers.values())  # the fallback knows no other
    assert all(set(each["metadata"]) == PROMETHEUS_TRIGGER for each in triggers.values())
    metrics = one(KSERVE, "InferenceService", "sentiment")["spec"]["predictor"]["autoScaling"]["metrics"]
    targets = [each["external"]["target"]["averageValue"] for each in metrics]
    assert targets == [each["metadata"]["threshold"] for each in triggers.values()]


def test_containers_are_confined(built: dict[str, list[Document]]) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE, re.M)
    assert user
    for document in all_documents(built):
        for spec in pod_specs(document):
            if document["kind"] == "Deployment":
                identity = {"runAsUser": int(user[1]), "runAsGroup": int(user[2]), "runAsNonRoot": True}
                assert identity.items() <= spec["securityContext"].items()
                assert not spec["automountServiceAccountToken"] and not spec["enableServiceLinks"]
            for container in containers({"spec": spec}):
                context = container["securityContext"]
                assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
                assert context["capabilities"] == {"drop": ["ALL"]} and container["resources"]["limits"]["memory"]


def test_every_mount_has_its_volume(built: dict[str, list[Document]]) -> None:
    for document in all_documents(built):
        for spec in pod_specs(document):
            volumes = {volume["name"]: volume for volume in spec["volumes"]}
            for container in services([{"containers": spec["containers"]}]):
                mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
                assert "emptyDir" in mounts["/tmp"]  # where the constants of a bundle are while its graphs are opened
                bundles = variables(container).get("BERTHEADS_BUNDLES")
                assert bundles in {None, "/mnt/models"} or any(Path(bundles).is_relative_to(path) for path in mounts)


def test_a_claim_that_is_mounted_is_declared(built: dict[str, list[Document]]) -> None:
    documents = built["bundle-volume"]
    (claim,) = [value for document in documents for path, value in walk(document) if path[-1:] == ("claimName",)]
    assert one(documents, "PersistentVolumeClaim", claim)["spec"]["accessModes"] == ["ReadOnlyMany"]


# ---- each other ------------------------------------------------------------------------------------------------------


def workloads(documents: list[Document]) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == "Deployment"}


@pytest.mark.parametrize("source", [*OVERLAYS, *COMPONENTS])
def test_selectors_select_one_workload(built: dict[str, list[Document]], source: str) -> None:
    documents = built[source]
    for document in documents:
        if document["kind"] in {"Service", "PodDisruptionBudget", "Deployment"}:
            selector = document["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            found = [
                name
                for name, workload in workloads(documents).items()
                if wanted.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
            ]
            assert found == [document["metadata"]["name"]]


@pytest.mark.parametrize("source", [*OVERLAYS, *COMPONENTS])
def test_ports_of_services_are_ports_of_pods(built: dict[str, list[Document]], source: str) -> None:
    for document in built[source]:
        if document["kind"] == "Service":
            (container,) = services([workloads(built[source])[document["metadata"]["name"]]])
            (port,) = document["spec"]["ports"]
            assert port_of(container, port["targetPort"]) == settings_of(container).port
            assert f"EXPOSE {settings_of(container).port}\n" in DOCKERFILE


@pytest.mark.parametrize("source", [*OVERLAYS, *COMPONENTS])
def test_all_pods_are_behind_the_network_policy(built: dict[str, list[Document]], source: str) -> None:
    policy = one(built[source], "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    for workload in workloads(built[source]).values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        (rule,) = policy["ingress"]
        (container,) = services([workload])
        assert port_of(container, rule["ports"][0]["port"])
    assert bool(policy["egress"]) == (source == "traces")


def test_the_network_policy_lets_traces_out(built: dict[str, list[Document]]) -> None:
    (container,) = services([one(built["traces"], "Deployment")])
    host, port = re.findall(r"http://([\w.-]+):(\d+)", variables(container)["OTEL_EXPORTER_OTLP_ENDPOINT"])[0]
    collector, dns = one(built["traces"], "NetworkPolicy")["spec"]["egress"]
    (there,) = collector["to"]
    assert there["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == host.split(".")[1]
    assert [each["port"] for each in collector["ports"]] == [int(port)]
    assert {each["port"] for each in dns["ports"]} == {53}


@pytest.mark.parametrize(("source", "kinds"), [("base", 1), ("overlays/keda", 1), ("overlays/gpu", 0)])
def test_one_autoscaler_at_most(built: dict[str, list[Document]], source: str, kinds: int) -> None:
    scalers = [d for d in built[source] if d["kind"] in {"HorizontalPodAutoscaler", "ScaledObject"}]
    assert len(scalers) == kinds
    for scaler in scalers:
        workload = workloads(built[source])[scaler["spec"]["scaleTargetRef"]["name"]]
        assert "replicas" not in workload["spec"]  # each apply would undo what the scaler has done
        assert min(scaler["spec"].get("minReplicas", 2), scaler["spec"].get("minReplicaCount", 2)) >= 2


def test_queries_are_of_the_scaled_workload_alone(built: dict[str, list[Document]]) -> None:
    scaled = one(built["overlays/keda"], "ScaledObject")
    labels = workloads(built["overlays/keda"])["bertheads"]["spec"]["template"]["metadata"]["labels"]
    (label,) = one(built["overlays/keda"], "PodMonitor")["spec"]["podTargetLabels"]
    chosen = f'namespace="{scaled["metadata"]["namespace"]}",{re.sub(r"[^a-zA-Z0-9_]", "_", label)}="{labels[label]}"'
    assert all(f"{{{chosen}}}" in query for query in queries([scaled]))


def test_the_route_leads_to_services(built: dict[str, list[Document]]) -> None:
    documents = built["overlays/canary"]
    ports = {d["metadata"]["name"]: d["spec"]["ports"][0]["port"] for d in documents if d["kind"] == "Service"}
    pinned, weighted = one(documents, "HTTPRoute")["spec"]["rules"]
    (mirror,) = weighted["filters"]
    backends = [*pinned["backendRefs"], *weighted["backendRefs"], mirror["requestMirror"]["backendRef"]]
    assert all(ports[backend["name"]] == backend["port"] for backend in backends)
    assert {backend["name"] for backend in backends} == set(workloads(documents)) == set(ports)
    assert sum(backend["weight"] for backend in weighted["backendRefs"]) == 100


def test_versions_of_the_canary_differ(built: dict[str, list[Document]]) -> None:
    documents = built["overlays/canary"]
    references = {name: bundle_of(workload) for name, workload in workloads(documents).items()}
    assert len(set(references.values())) == len(references) == 3
    (match,) = one(documents, "HTTPRoute")["spec"]["rules"][0]["matches"]
    (header,) = match["headers"]
    name, version = header["value"].split("/")
    assert references["bertheads-canary"].endswith(f"/{name}:{version}")


def bundle_of(workload: Document) -> str:
    (found,) = [value for path, value in walk(workload) if path[-1:] == ("reference",)]
    return str(found)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_images_have_the_version_of_the_project(built: dict[str, list[Document]]) -> None:
    for container in services(all_documents(built)):
        tag = container["image"].split(":")[1] if "image" in container else PROJECT["version"]
        cuda = variables(container).get("BERTHEADS_PROVIDER") == "cuda"
        assert tag == PROJECT["version"] + ("-cuda" if cuda else "")


def test_an_overlay_must_name_the_image_that_the_base_has_made(tmp_path: Path) -> None:
    for name, changed in (("bertheads", False), ("registry.example/bertheads", True)):
        documents = build(kustomization(tmp_path, images=[{"name": name, "newTag": "other"}]))
        (container,) = services([one(documents, "Deployment")])
        assert container["image"].endswith(":other") == changed  # an unknown name is ignored without a word


@pytest.mark.parametrize("file", sorted(KUBERNETES.rglob("kustomization.yaml")), ids=lambda f: f.parent.name)
def test_replaced_images_exist(file: Path, tmp_path: Path) -> None:
    contents = yaml.safe_load(file.read_text())
    if "images" not in contents:
        return
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    copied = tmp_path / "kubernetes" / file.relative_to(KUBERNETES)
    copied.write_text(yaml.safe_dump({key: value for key, value in contents.items() if key != "images"}))
    before = {c["image"].split(":")[0] for d in build(copied.parent) for c in containers(d)}
    assert {image["name"] for image in contents["images"]} <= before
