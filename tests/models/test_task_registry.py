"""If these fail, the OpenAPI document has a parameter or property without a description."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

from models.task_registry import ROUTES, RouteName


def schemas(route: RouteName) -> Iterator[dict[str, Any]]:
    """Every schema of what a route takes and answers."""
    task = ROUTES[route]
    for kind in (task.inputs, task.parameters, task.answer_type()):
        schema = TypeAdapter(kind).json_schema()
        yield from schema.pop("$defs", {}).values()
        yield schema


@pytest.mark.parametrize("route", ROUTES)
def test_every_property_has_a_description(route: RouteName) -> None:
    described: dict[str, str] = {}
    for schema in schemas(route):
        for name, each in schema.get("properties", {}).items():
            assert each.get("description"), f"{schema['title']}.{name}"
            described[name] = each["description"]
    assert set(ROUTES[route].parameters.model_fields) < set(described)  # and those of the answer
    for name, text in described.items():
        assert text[0].isupper() or text[0] == '"', name
        assert text.endswith("."), name


@pytest.mark.parametrize("route", ROUTES)
def test_objects_of_answers_hold_nothing_else(route: RouteName) -> None:
    objects = [schema for schema in schemas(route) if schema.get("type") == "object"]
    assert objects and all(schema["additionalProperties"] is False for schema in objects)
    assert all(schema["description"] for schema in objects)
