"""What a request of each task looks like: models that validate it and document it, and the sentences that refuse it."""

import difflib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails

from models.task import TaskName, parameter_error
from models.tasks import TASKS
from service.body import malformed
from service.errors import BadRequest, FieldError, ServiceError, Unprocessable

MAX_ERRORS = 16
"""Errors that one answer names."""
KEYS = ("inputs", "parameters")
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
def request_model(task: TaskName, max_items: int, max_characters: int) -> type[TaskRequest]:
    """Return the model of a task's request body."""
    one = _bounded(TASKS[task].inputs, max_characters)
    several: Any = Annotated[list[one], Field(min_length=1, max_length=max_items)]  # type: ignore[valid-type]
    fields: dict[str, Any] = {
        "inputs": (one | several, Field(description="One input, or a list of inputs, which is answered by a list")),
        "parameters": (
            TASKS[task].parameters | None,
            Field(None, description="What the task is asked to do; the head's defaults (GET /heads) hold otherwise"),
        ),
    }
    return create_model(task.title().replace("-", "") + "Request", __base__=TaskRequest, **fields)


def _bounded(kind: Any, max_characters: int) -> Any:
    """Return an input's type with a limit on each of its texts."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return Annotated[kind, Field(max_length=max_characters)]
    fields: dict[str, Any] = {
        name: (Annotated[field.annotation, Field(max_length=max_characters)], field)
        for name, field in kind.model_fields.items()
    }
    return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, **fields)


def parse_request(body: bytes, task: TaskName, model: type[TaskRequest]) -> TaskRequest:
    """Return the request that a body holds; raise BadRequest or Unprocessable, which names each field at fault."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(body, task, error.errors(include_url=False)) from None


def _refusal(body: bytes, task: TaskName, found: Sequence[ErrorDetails]) -> ServiceError:
    if found[0]["type"] == "json_invalid":
        return not_json(body, found[0]["ctx"]["error"])
    return Unprocessable([_explain(error, task) for error in _relevant(found)][:MAX_ERRORS])


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
    unwanted = [error for error in of_inputs if str(error["loc"][1]).startswith("list[") != is_list]
    return [error for error in found if error not in unwanted]


def _explain(error: ErrorDetails, task: TaskName) -> FieldError:
    first, *inner = error["loc"] or ("body",)
    if first == "inputs" and inner:
        return _explain_input(error, task, inner[1:])
    if first == "parameters" and inner:
        refused = parameter_error({**error, "loc": tuple(inner)}, task, TASKS[task].parameters)
        return FieldError(refused.field, refused.message)
    if error["type"] == "missing":
        return FieldError("inputs", "is missing; send the text, or a list of texts")
    if error["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(first)[:80], KEYS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"a request has {' and '.join(KEYS)}"
        return FieldError(str(first)[:80], f"is unknown; {hint}")
    example = '{"inputs": …, "parameters": {…}}' if first == "body" else "an object such as {}"
    return FieldError(str(first), f"is {kind_of(error['input'])}; send {example}")


def _explain_input(error: ErrorDetails, task: TaskName, place: Sequence[int | str]) -> FieldError:
    kind, value, limits = error["type"], error["input"], error.get("ctx", {})
    field = "inputs" + "".join(f"[{part}]" if isinstance(part, int) else f".{part[:80]}" for part in place)
    names = ", ".join(f'"{name}": …' for name in getattr(TASKS[task].inputs, "model_fields", ()))
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
