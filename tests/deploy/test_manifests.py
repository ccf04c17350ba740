"""If this breaks, Kubernetes refuses a manifest, or our validator takes one that it would refuse."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import (
    BASE,
    CRDS,
    KSERVE,
    VERSIONS,
    Document,
    all_documents,
    core,
    errors,
    one,
    walk,
)

FREE = {"labels", "annotations", "matchLabels", "nodeSelector", "pairs", "requests", "limits"}
"""Maps whose keys the user chooses; so is any key with a slash."""


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(built: dict[str, list[Document]], version: str) -> None:
    wrong = {
        f"{source}: {document['kind']}": found
        for source, documents in built.items()
        for document in documents
        if (found := errors(document, version))
    }
    assert not wrong


def test_a_misspelled_field_is_refused_anywhere(built: dict[str, list[Document]]) -> None:
    tried: set[tuple[str, ...]] = set()
    for document in all_documents(built):
        for path, _ in walk(document):
            place = (document["kind"], *(str(part) for part in path if isinstance(part, str)))
            if len(place) > 1 and place not in tried and isinstance(path[-1], str) and not is_free(path):
                tried.add(place)
                assert is_refused(misspelled(document, path)), f"{'.'.join(place)} may be misspelled"
    assert {place[0] for place in tried} == {document["kind"] for document in all_documents(built)}


def is_refused(document: Document) -> bool:
    try:
        return bool(errors(document))
    except LookupError:  # what is misspelled is its kind or the version of its API
        return not {"apiVersion", "kind"} <= set(document)


def is_free(path: tuple[str | int, ...]) -> bool:
    """Whether a key is in a map whose keys the user chooses."""
    names = [part for part in path if isinstance(part, str)]
    return "/" in names[-1] or bool(FREE & set(names[:-1])) or names[-3:-1] == ["triggers", "metadata"]


def misspelled(document: Document, path: tuple[str | int, ...]) -> Document:
    """Return a copy with a letter more in one key."""
    changed = copy.deepcopy(document)
    *outer, last = path
    inside: Any = changed
    for part in outer:
        inside = inside[part]
    inside[f"{last}x"] = inside.pop(last)
    return changed


@pytest.mark.parametrize(
    ("source", "kind", "path", "value"),
    [
        ("base", "Deployment", ("spec", "template", "spec", "containers", 0, "ports", 0, "containerPort"), "8000"),
        ("base", "PodDisruptionBudget", ("spec", "selector"), "bertheads"),
        ("overlays/keda", "ScaledObject", ("spec", "fallback", "behavior"), "guess"),
        ("overlays/keda", "ScaledObject", ("spec", "pollingInterval"), "10s"),
        ("overlays/keda", "ScaledObject", ("spec", "triggers", 0, "metadata", "threshold"), 2000),
        ("overlays/keda", "PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), "10 seconds"),
        ("overlays/canary", "HTTPRoute", ("spec", "rules", 1, "backendRefs", 0, "weight"), "90"),
        ("overlays/canary", "HTTPRoute", ("spec", "rules", 1, "matches", 0, "path", "type"), "Prefix"),
        ("overlays/canary", "HTTPRoute", ("spec", "rules", 1, "filters", 0, "type"), "Mirror"),
        ("kserve", "ServingRuntime", ("spec", "multiModel"), "no"),
        ("kserve", "ServingRuntime", ("spec", "containers", 0, "ports", 0, "containerPort"), "8080"),
        ("kserve", "InferenceService", ("spec", "canary", 0, "trafficPercent"), "10 %"),
    ],
)
def test_a_wrong_value_is_refused(
    built: dict[str, list[Document]], source: str, kind: str, path: tuple[str | int, ...], value: object
) -> None:
    (document,) = [copy.deepcopy(d) for d in built[source] if d["kind"] == kind][:1]
    inside: Any = document
    for part in path[:-1]:
        inside = inside[part]
    assert inside[path[-1]] != value
    inside[path[-1]] = value
    assert errors(document)


def test_a_canary_of_kserve_needs_the_name_of_its_model() -> None:
    document = copy.deepcopy(one(KSERVE, "InferenceService", "sentiment"))
    del document["spec"]["canary"][0]["predictor"]["model"]["name"]
    assert any("'name' is a required property" in error for error in errors(document))


def test_a_kind_without_a_schema_is_an_error() -> None:
    with pytest.raises(LookupError, match="no schema of example.com/v1 Thing"):
        errors({"apiVersion": "example.com/v1", "kind": "Thing"})


@pytest.mark.parametrize("file", sorted(CRDS.glob("*.json")), ids=lambda file: file.stem)
def test_schemas_of_custom_resources_are_complete(file: Path) -> None:
    text = file.read_text()
    assert "Apache-2.0" in text  # and where it comes from
    known = core(VERSIONS[-1]).contents(BASE + "_definitions.json")["$defs"]
    assert set(re.findall(r"_definitions.json#/\$defs/([\w.]+)", text)) <= set(known)
