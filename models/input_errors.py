"""Messages for invalid inputs: they turn pydantic's errors into sentences, for the service and for `Predictor`."""

import json
from collections.abc import Iterable, Sequence

from pydantic_core import ErrorDetails

from models.errors import InputError

VALID = "Input should be a valid "
"""How pydantic begins a message about the type of a value."""
KINDS = {
    "string": "a text",
    "array": "a list",
    "list": "a list",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "dictionary": "an object",
}
"""Our words for pydantic's names of types."""


def input_error(error: ErrorDetails, names: Sequence[str], location: Iterable[int | str]) -> InputError:
    """Return the user's error for an error of pydantic at a `location` within `inputs`.

    `names` are the fields of one input, if it has several texts.
    """
    field = written(["inputs", *location])
    keys = ", ".join(f'"{name}": …' for name in names)
    one = f"an object {{{keys}}}" if names else "a text"
    part = "a text" if "." in field else one
    wanted = f"{one} or a list of {'such' if names else 'texts'}" if field == "inputs" else part
    return InputError(field, explain(error, f"an input is {one}", wanted))


def explain(error: ErrorDetails, known: str, wanted: str = "") -> str:
    """Return what is wrong with a value; `known` lists the known keys, and `wanted` describes the expected value."""
    value, limits, kind = error["input"], error.get("ctx", {}), error["type"]
    if kind == "missing":
        return f"is missing; send {wanted or 'it'}"
    if kind == "extra_forbidden":
        return f"is unknown; {known}"
    if kind == "string_too_long":
        return f"has {len(value)} characters; at most {limits['max_length']} are allowed, so send it in parts"
    if kind in ("too_long", "too_short"):
        number = f"1 to {limits['max_length']}" if kind == "too_long" else f"at least {limits['min_length']}"
        count = limits["actual_length"]
        return f"has {len(value) if count is None else count} items; send {number}"
    if kind == "string_pattern_mismatch":
        return f"is {value[:80]!r}, but must match {limits['pattern']}; choose another"
    return f"is {kind_of(value)}, but {f'must be {wanted}' if wanted else expected(error['msg'])}"


def expected(message: str) -> str:
    """Return what a value must be, from a message of pydantic; its names of types become the words of `kind_of`."""
    message = message.removeprefix("Value error, ").replace("Input should be an object", "must be an object")
    if message.startswith(VALID):
        kinds = message.removeprefix(VALID).partition(", ")[0].split(" or ")
        return "must be " + " or ".join(KINDS.get(kind, f"a valid {kind}") for kind in kinds)
    return message[:1].lower() + message[1:]


def kind_of(value: object) -> str:
    """Return the JSON type of a value in words, or the value itself if it is a number, true, false or null."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return "a huge number" if abs(value) >= 10**15 else f"the number {value!r}"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def written(location: Iterable[int | str]) -> str:
    """Return a location as text: inputs[3].question."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in location).removeprefix(".")


def at(error: InputError, index: int) -> InputError:
    """Return the error of one input as an error of item `index` of a list: inputs.question → inputs[3].question."""
    return InputError(place(error.field, index), error.message)


def place(field: str, index: int) -> str:
    """Return the name of a field in item `index` of a list: inputs.question → inputs[3].question."""
    return f"inputs[{index}]{field.removeprefix('inputs')}" if field.startswith("inputs") else field
