"""Recipes: short TOML files plus `--set key=value`, checked against a dataclass."""

import tomllib
from collections.abc import Collection, Sequence
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
    return parse_recipe(kind, values, str(path), {setting.partition("=")[0] for setting in settings})


def parse_recipe(
    kind: type[RecipeT], values: dict[str, Any], origin: str, changed: Collection[str] = frozenset()
) -> RecipeT:
    """Return a recipe from its values; raise RecipeError for an unknown key or an invalid value.

    Errors name the `origin` of the value, or --set for the keys in `changed`.
    """
    refuse_unknown(values, kind, origin, changed)
    try:
        # in TOML, a path is a string, and 1 is not 1.0: pydantic converts these and refuses everything else
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise RecipeError(f"{origin}: {name} is missing, expected a value; add --set {name}=VALUE") from None
        reason = first["msg"].removeprefix("Value error, ").partition(", unable to parse string")[0]
        place = "--set" if name in changed else origin
        raise RecipeError(f"{place}: {name or 'recipe'}: {reason}; got {str(first['input'])[:80]}") from None


def refuse_unknown(
    values: dict[str, Any], kind: type[Any], origin: str, changed: Collection[str] = frozenset(), table: str = ""
) -> None:
    """Raise RecipeError for an unknown key; `table` is the place of `values` in the recipe, with a point at its end."""
    known = [field.name for field in fields(kind)]
    for key in values:
        if key not in known:
            near = get_close_matches(key, known, 1, 0.0)
            place = f"--set {table}{key}" if f"{table}{key}" in changed else origin
            raise RecipeError(f"{place}: unknown key {key!r}; did you mean {near[0]!r}? (known: {', '.join(known)})")
    hints = get_type_hints(kind)
    for key, value in values.items():
        nested: Any = next((a for a in getattr(hints[key], "__args__", ()) if hasattr(a, "__dataclass_fields__")), None)
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in entries if nested else ():
            if isinstance(entry, dict):
                refuse_unknown(entry, nested, f"{origin}: {key}.{name}", changed, f"{key}.{name}.")


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
