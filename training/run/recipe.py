"""Recipes: short TOML files plus `--set key=value`, checked against a dataclass."""

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from training.errors import RecipeError

RecipeT = TypeVar("RecipeT")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]
"""The range that torch and numpy both accept."""
Threads = Annotated[int, Field(ge=0, le=1024)]


def read_recipe(kind: type[RecipeT], path: Path, settings: Sequence[str] = ()) -> RecipeT:
    """Read a recipe into dataclass `kind`; raise RecipeError that names key, value and the nearest known key."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist; name a recipe, such as those in training/recipes/") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}; correct the line") from None
    for setting in settings:
        assign(values, setting)
    return parse_recipe(kind, values, str(path))


def parse_recipe(kind: type[RecipeT], values: dict[str, Any], origin: str) -> RecipeT:
    """Return a recipe from its values; raise RecipeError for an unknown key or an invalid value."""
    refuse_unknown(values, kind, origin)
    try:
        # in TOML, a path is a string, and 1 is not 1.0: pydantic converts these and refuses everything else
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise RecipeError(f"{origin}: {name} is missing, expected a value; add --set {name}=VALUE") from None
        reason = first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{origin}: {name or 'recipe'}: {reason}; got {str(first['input'])[:80]}") from None


def refuse_unknown(values: dict[str, Any], kind: type[Any], origin: str) -> None:
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)
            raise RecipeError(f"{origin}: unknown key {key!r}; did you mean {near[0]!r}? (known: {', '.join(known)})")
    hints = get_type_hints(kind)
    for key, value in values.items():
        nested: Any = next((a for a in getattr(hints[key], "__args__", ()) if hasattr(a, "__dataclass_fields__")), None)
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in entries if nested else ():
            if isinstance(entry, dict):
                refuse_unknown(entry, nested, f"{origin}: {key}.{name}")


def assign(values: dict[str, Any], setting: str) -> None:
    """Apply one `key=value`; dots reach into tables. A value that is not TOML is a string."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise RecipeError(f"--set {setting}: expected key=value; write for example --set steps=100")
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {setting}: {table} is not a table, expected one; set it as a whole: {table}=…")
    try:
        values[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        values[last] = text
