"""What a request of each task looks like: models that validate it and document it, and the sentences that refuse it."""

import difflib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from models.task import parameter_error
from models.tasks import ROUTES, RouteName
from service.body import malformed
from service.errors import BadRequest, FieldError, Unprocessable

MAX_ERRORS = 16
"""Errors that one answer names."""
PARAMETERS = "What the task is asked to do; the head's defaults (GET /heads) hold otherwise"
REASONS = {"recursion limit": "is nested too deeply", "out of range": "has a number of thousands of digits"}
"""What the JSON parser says, and what we say."""


class TaskRequest(BaseModel):
    """Base of all requests: nothing unknown, nothing converted."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Any
    parameters: Any = None
    options: Annotated[
        dict[str, Any] | None,
        Field(description="Options of the Hugging Face Inference API (wait_for_model …): accepted, without effect"),
    ] = None


@cache
def request_model(route: RouteName, max_items: int, max_characters: int) -> type[TaskRequest]:
    """Return the model of a request body of a route."""
    task = ROUTES[route]
    one = _bounded(task.inputs, max_characters)
    # Given words, one input, look like a list of inputs: that is counted once the parameters are known.
    most = None if list in [get_origin(part) for part in get_args(task.inputs)] else max_items
    several: Any = Annotated[list.__class_getitem__(one), Field(min_length=1, max_length=most)]
    if not most:  # errors of each of 30,000 items would take a second
        several = Annotated[several, Field(fail_fast=True)]
    needed = any(field.is_required() for field in task.parameters.model_fields.values())
    parameters = task.parameters if needed else task.parameters | None
    fields: dict[str, Any] = {
        "inputs": (one | several, Field(description="One input, or a list of inputs, which is answered by a list")),
        "parameters": (parameters, Field(... if needed else None, description=PARAMETERS)),
    }
    return create_model(route.title().replace("-", "") + "Request", __base__=TaskRequest, **fields)


def _bounded(kind: Any, limit: int) -> Any:
    """Return an input's type with a limit on the characters of each of its texts."""
    if kind is str:
        return Annotated[str, Field(max_length=limit)]
    if get_origin(kind) is list:
        return Annotated[list.__class_getitem__(_bounded(get_args(kind)[0], limit)), Field(fail_fast=True)]
    if get_args(kind):
        return Union[tuple(_bounded(part, limit) for part in get_args(kind))]  # noqa: UP007
    fields: dict[str, Any] = {
        name: (_bounded(field.annotation, limit), field) for name, field in kind.model_fields.items()
    }
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, **fields)


def parse_request(body: bytes, route: RouteName, model: type[TaskRequest]) -> TaskRequest:
    """Return the request that a body holds; raise BadRequest or Unprocessable, which names each field at fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        found = error.errors(include_url=False)
        if found[0]["type"] == "json_invalid":
            raise not_json(body, found[0]["ctx"]["error"]) from None
        by_field: dict[str, FieldError] = {}
        for each in _relevant(found):
            explained = _explain(each, route, model)
            by_field.setdefault(explained.field, explained)
            if len(by_field) == MAX_ERRORS:
                break
        raise Unprocessable([*by_field.values()]) from None


def not_json(body: bytes, reason: str) -> BadRequest:
    """Return the error of a body of which the JSON parser says `reason`."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return malformed(f"is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}")
    if "hex escape" in reason:
        return malformed(f"is not JSON: it has half of a character ({reason}); send both \\u escapes of it")
    return malformed(next((words for key, words in REASONS.items() if key in reason), f"is not JSON: {reason}"))


def _relevant(found: Iterable[ErrorDetails]) -> list[ErrorDetails]:
    """Drop what pydantic says of the form of `inputs`, one input or a list, that the client did not mean."""
    of_inputs = [error for error in found if error["loc"][:1] == ("inputs",) and len(error["loc"]) > 1]
    is_list = any(len(error["loc"]) == 2 and isinstance(error["input"], list) for error in of_inputs)
    unwanted = {id(error) for error in of_inputs if str(error["loc"][1]).startswith("list[") != is_list}
    return [error for error in found if id(error) not in unwanted]


def _explain(error: ErrorDetails, route: RouteName, model: type[TaskRequest]) -> FieldError:
    first, *inner = error["loc"] or ("body",)
    if first == "inputs" and inner:
        return _explain_input(error, ROUTES[route].inputs, inner[1:])
    if first == "parameters" and inner:
        refused = parameter_error({**error, "loc": tuple(inner)}, route, ROUTES[route].parameters)
        return FieldError(refused.field, refused.message)
    if error["type"] == "missing":
        wanted = "the text, or a list of texts" if first == "inputs" else f"what {route} needs; see GET /docs"
        return FieldError(str(first), f"is missing; send {wanted}")
    if error["type"] == "extra_forbidden":
        known = [name for name in model.model_fields if name != "options"]
        nearest = difflib.get_close_matches(str(first)[:80], known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"a request has {', '.join(known)}"
        return FieldError(str(first)[:80], f"is unknown; {hint}")
    found = kind_of(error["input"])
    if first == "body":
        return FieldError("body", f'is {found}; send {{"inputs": …, "parameters": {{…}}}}')
    expected = "object" if first in ("parameters", "options") else error["msg"].removeprefix("Input should be a valid ")
    return FieldError(".".join(map(str, error["loc"]))[:80], f"is {found}, but must be: {expected}")


def _explain_input(error: ErrorDetails, inputs: Any, location: Sequence[int | str]) -> FieldError:
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    names = ", ".join(f'"{name}": …' for name in getattr(inputs, "model_fields", ()))
    place = [part for part in location if names or isinstance(part, int)]  # without pydantic's names of alternatives
    field = "inputs" + "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in place)
    whole = f"an object {{{names}}}" if names else "a text"
    if kind == "string_too_long":
        most = limits["max_length"]
        return FieldError(field, f"has {len(value)} characters; at most {most} are allowed, so send it in parts")
    if kind in ("too_long", "too_short"):
        most = f"1 to {limits['max_length']}" if kind == "too_long" else "at least 1"
        return FieldError(field, f"has {len(value)} items; send {most}")
    if kind in ("missing", "extra_forbidden"):
        return FieldError(field, f"is {'missing' if kind == 'missing' else 'unknown'}; send {{{names}}}")
    is_text = place and isinstance(place[-1], str)
    wanted = "a text" if is_text else whole if place else f"{whole} or a list of {'such' if names else 'texts'}"
    return FieldError(field, f"is {kind_of(value)}, but must be {wanted}")


def kind_of(value: object) -> str:
    """Return what JSON calls a value, with the value where it is short."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return "a huge number" if abs(value) >= 10**15 else f"the number {value!r}"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
