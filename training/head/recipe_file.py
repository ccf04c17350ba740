"""A recipe as TOML for `finetune`, with only the values that differ from the defaults."""

import json
import math
from dataclasses import MISSING, fields
from typing import Any

from training.finetuning.finetune_recipe import FinetuneRecipe


def recipe_text(recipe: FinetuneRecipe, command: str) -> str:
    """Return a TOML file; `command` is the command that runs it."""
    lines = [f"# {command}", *_lines(recipe, leave=("heads",))]
    for name, head in recipe.heads.items():
        lines += ["", f"[heads.{json.dumps(name)}]", *_lines(head)]
    return "\n".join(lines) + "\n"


def _lines(values: Any, leave: tuple[str, ...] = ()) -> list[str]:
    found = [(field, getattr(values, field.name)) for field in fields(values) if field.name not in leave]
    return [f"{field.name} = {_value(value)}" for field, value in found if value != _default(field)]


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _value(value: Any) -> str:
    """Return a TOML value: strings, lists, booleans and numbers are written as in JSON; tables are inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)
