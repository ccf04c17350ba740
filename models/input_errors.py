"""The sentences that refuse an input: what pydantic found wrong, in the words of the service and of `Predictor`."""

import json
from collections.abc import Iterable, Sequence

from pydantic_core import ErrorDetails

from models.errors import InputError


def input_error(error: ErrorDetails, names: Sequence[str], location: Iterable[int | str]) -> InputError:
    """Return the error of a user for what pydantic found wrong at a `location` within `inputs`.

    `names` are the texts of one input, if it has several.
    """
    field = written(["inputs", *location])
    keys = ", ".join(f'"{name}": …' for name in names)
    one = f"an object {{{keys}}}" if names else "a text"
    part = "a text" if "." in field else one
    wanted = f"{one} or a list of {'such' if names else 'texts'}" if field == "inputs" else part
    return InputError(field, explain(error, f"an input is {one}", wanted))


def explain(error: ErrorDetails, known: str, wanted: str = "") -> str:
    """Return what is wrong with a value: `known` says which keys there are, and `wanted` what belongs there."""
    value, limits, kind = error["input"], error.get("ctx", {}), error["type"]
    if kind == "missing":
        return f"is missing; send {wanted or 'it'}"
    if kind == "extra_forbidden":
        return f"is unknown; {known}"
    if kind == "string_too_long":
        return f"has {len(value)} characters; at most {limits['max_length']} are allowed, so send it in parts"
    if wanted and kind in ("too_long", "too_short"):
        number = f"1 to {limits['max_length']}" if kind == "too_long" else "at least 1"
        return f"has {len(value)} items; send {number}"
    if wanted:
        return f"is {kind_of(value)}, but must be {wanted}"
    expected = error["msg"].replace("Input should be a valid ", "must be: ")
    return f"is {kind_of(value)}, but {expected[:1].lower()}{expected[1:]}"


def kind_of(value: object) -> str:
    """Return what JSON calls a value, with the value where it is short."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return "a huge number" if abs(value) >= 10**15 else f"the number {value!r}"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def written(location: Iterable[int | str]) -> str:
    """Write where a value is: inputs[3].question."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in location).removeprefix(".")


def at(error: InputError, index: int) -> InputError:
    """Return the error of one input as that of item `index` of a list: inputs.question → inputs[3].question."""
    return InputError(place(error.field, index), error.message)


def place(field: str, index: int) -> str:
    """Return the field of an item of a list: inputs.question → inputs[3].question."""
    return f"inputs[{index}]{field.removeprefix('inputs')}" if field.startswith("inputs") else field
