"""If this breaks, Kubernetes refuses the RayJob, or its nodes lack what the command needs."""

import argparse
import copy
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, VERSIONS, Document, containers, errors, walk
from training.scoring.command import build_parser

FOLDER = DEPLOY / "ray"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
PROJECT = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
PINS = (DEPLOY.parent / "constraints.txt").read_text()


@pytest.fixture
def job() -> Document:
    """The RayJob, as kubectl sends it: JSON has no references of YAML."""
    document: Document = json.loads(json.dumps(yaml.safe_load((FOLDER / "rayjob.yaml").read_text())))
    return document


def cluster(job: Document) -> Document:
    found: Document = job["spec"]["rayClusterSpec"]
    return found


def pods(job: Document) -> dict[str, Document]:
    """Return the pods of the nodes by their names, the head's first."""
    workers = {group["groupName"]: group for group in cluster(job)["workerGroupSpecs"]}
    groups = {"head": cluster(job)["headGroupSpec"]} | workers
    return {name: group["template"]["spec"] for name, group in groups.items()}


def arguments(job: Document) -> argparse.Namespace:
    program, *words = shlex.split(job["spec"]["entrypoint"])
    assert program in PROJECT["scripts"]
    return build_parser().parse_args(words)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_job_is_valid(job: Document, version: str) -> None:
    assert errors(job, version) == []


def test_a_misspelled_field_is_refused(job: Document) -> None:
    """Anywhere but in maps whose keys are anybody's choice."""
    free = {"labels", "requests", "limits", "rayStartParams"}
    for path, _ in walk(job):
        names = [part for part in path if isinstance(part, str)]
        if path and isinstance(path[-1], str) and not free & set(names[:-1]) and len(path) > 1:
            changed = copy.deepcopy(job)
            *outer, last = path
            inside: Any = changed
            for part in outer:
                inside = inside[part]
            inside[f"{last}x"] = inside.pop(last)
            assert errors(changed), ".".join(map(str, path))


def test_the_entrypoint_is_a_command_of_ours(job: Document) -> None:
    """All nodes have its paths: only the answers are on what can be written, and several nodes can write."""
    given = arguments(job)
    assert given.ray == "auto"
    for pod in pods(job).values():
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert {mount["name"] for mount in mounts.values()} == {volume["name"] for volume in pod["volumes"]}
        for path, writes in ((given.bundle, False), (given.files[0], False), (given.out, True)):
            mount = next(mounts[str(parent)] for parent in path.parents if str(parent) in mounts)
            assert not (writes and mount.get("readOnly"))
        assert mounts["/bundles"]["readOnly"]


def test_all_versions_of_ray_agree(job: Document) -> None:
    (pin,) = re.findall(r"^ray==(.+)$", PINS, re.M)
    assert cluster(job)["rayVersion"] == pin
    assert f"\nray=={pin}\n" in PINS and "--constraint /constraints.txt" in DOCKERFILE
    images = {container["image"] for container in containers(job)}
    assert images == {f"registry.example/bertheads-ray:{PROJECT['version']}"}
    assert f'image.version="{PROJECT["version"]}"' in DOCKERFILE


def test_the_cluster_scales_and_ends_with_the_job(job: Document) -> None:
    spec = job["spec"]
    assert cluster(job)["enableInTreeAutoscaling"] is True
    (group,) = cluster(job)["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] < group["maxReplicas"]
    assert cluster(job)["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] and spec["activeDeadlineSeconds"]
    assert spec["backoffLimit"] > 0


def test_containers_are_confined(job: Document) -> None:
    assert re.findall(r"^USER (\S+)$", DOCKERFILE, re.M) == ["10001:10001"]
    template = job["spec"]["submitterPodTemplate"]["spec"]
    for pod in [*pods(job).values(), template]:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_dockerfile_is_linted() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, FOLDER / "Dockerfile"], capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_image_is_built_of_what_it_copies() -> None:
    """What a wheel is made of reaches the build, although the .dockerignore of the service keeps most of it out."""
    kept = {line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    build = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    needed = {*build["wheel"]["packages"], "pyproject.toml", "constraints.txt", "hatch_build.py", "kernels"}
    assert kept == needed | {PROJECT["readme"], *PROJECT["license-files"]}
    extras = set(PROJECT["optional-dependencies"])
    assert set(re.findall(r"EXTRA=(\w+)", DOCKERFILE)) | {"batch"} <= extras
