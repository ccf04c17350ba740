"""Models that validate and document requests, and the messages for invalid ones."""

from codecs import BOM_UTF8
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, from_json

from models.input_errors import VALID, explain, input_error, written
from models.task import Strict, parameter_error
from models.task_registry import ROUTES, RouteName
from service.errors import BadRequest, FieldError, Unprocessable, did_you_mean
from service.request_body import malformed

Model = TypeVar("Model", bound=BaseModel)

MAX_ERRORS = 16
"""Maximum errors in one response."""
PARAMETERS = "Options of the task; the head's defaults (GET /heads) apply to those left out"
REASONS = {
    "recursion limit": "is nested too deeply; send an object as in GET /docs",
    "out of range": "has a number of thousands of digits; send a smaller one",
    "hex escape": "is not JSON: it has half of a character; send both \\u escapes of it",
}
"""Parts of the JSON parser's messages, and our message for each."""


class TaskRequest(Strict):
    """Base of the requests of all tasks."""

    inputs: Any
    parameters: Any = None
    options: dict[str, Any] | None = None
    """Options of the Hugging Face Inference API (wait_for_model …): accepted, without effect"""


FAIL_FAST = Field(fail_fast=True)
"""For lists without a maximum length: reporting an error for each of 30,000 items would take a second."""


@cache
def request_model(route: RouteName, max_items: int, max_characters: int) -> type[TaskRequest]:
    """Return the model of a route's request body."""
    task, bounds = ROUTES[route], {"str_max_length": max_characters}
    # One input of given words looks like a list of inputs. So its length is checked later, with the parameters.
    has_words = bool(get_args(task.inputs))
    one = _one_input(task.inputs, bounds)
    bound = FAIL_FAST if has_words else Field(min_length=1, max_length=max_items)
    several: Any = Annotated[list.__class_getitem__(one), bound]
    needed = any(field.is_required() for field in task.parameters.model_fields.values())
    parameters = task.parameters if needed else task.parameters | None
    fields: dict[str, Any] = {
        "inputs": (one | several, Field(description="One input, or a list of inputs, which is answered by a list")),
        "parameters": (parameters, Field(... if needed else None, description=PARAMETERS)),
    }
    name = route.title().replace("-", "") + "Request"
    return create_model(name, __base__=TaskRequest, __cls_kwargs__=bounds, **fields)


def _one_input(kind: Any, bounds: dict[str, Any]) -> Any:
    if hasattr(kind, "model_fields"):
        return create_model(kind.__name__, __base__=kind, __doc__=kind.__doc__, __cls_kwargs__=bounds)
    words: Any = Annotated[list[str], FAIL_FAST]
    return str | words if get_args(kind) else kind


def parse_request(body: bytes, route: RouteName, model: type[TaskRequest]) -> TaskRequest:
    """Parse a body; raise BadRequest if it is not JSON, or Unprocessable, which names each wrong field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors: dict[str, FieldError] = {}
        for each in _relevant(_found(error, body))[:MAX_ERRORS]:
            explained = _explain(each, route, model)
            errors.setdefault(explained.field, explained)
        raise Unprocessable(list(errors.values())) from None


def parse_json(body: bytes, model: type[Model]) -> Model:
    """Parse a body; raise BadRequest, which names the first wrong field."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = _first(_found(error, body), from_json(body))
        known = f"a request has {', '.join(model.model_fields)}" if len(first["loc"]) == 1 else "leave it out"
        raise refusal(written(first["loc"]) or "body", explain(first, known)) from None


def parse_fields(body: bytes, model: type[Model], wanted: Mapping[str, str]) -> Model:
    """Parse a body; raise BadRequest if it is not JSON, or Unprocessable, which names each wrong field.

    `wanted` describes the expected value of fields, for the messages.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        errors: dict[str, FieldError] = {}
        for each in _found(error, body)[:MAX_ERRORS]:
            field, first = written(each["loc"]) or "body", str((each["loc"] or ("",))[0])
            hint = did_you_mean(first, model.model_fields, f"a request has {', '.join(model.model_fields)}")
            errors.setdefault(field, FieldError(field, explain(each, hint, wanted.get(field, ""))))
        raise Unprocessable(list(errors.values())) from None


def refusal(field: str, message: str) -> BadRequest:
    """Return the error for a field that violates the protocol."""
    return BadRequest(f"{field} {message}", field=field)


def _found(error: ValidationError, body: bytes) -> list[ErrorDetails]:
    """Return pydantic's errors; raise BadRequest if the body is not JSON."""
    found = error.errors(include_url=False)
    if found[0]["type"] != "json_invalid":
        return found
    reason = found[0]["ctx"]["error"]
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        raise malformed(f"is not UTF-8: byte {wrong.start} is 0x{body[wrong.start]:02x}; send UTF-8") from None
    if not body.strip():
        raise malformed("is empty; send a JSON object")
    if body.startswith(BOM_UTF8):
        raise malformed("begins with a byte order mark; send UTF-8 without it")
    usual = f"is not JSON: {reason}; correct it"
    raise malformed(next((words for key, words in REASONS.items() if key in reason), usual))


def _first(found: Sequence[ErrorDetails], data: Any) -> ErrorDetails:
    """Return the first error. If its field has several forms, such as a text or a list, it is that of the nearest form.

    pydantic tries all forms, names each in the location, and reports the errors of each.
    """
    located = [error | {"loc": _location(error, data)} for error in found[:MAX_ERRORS]]
    of_field = [error for error in located if error["loc"][:1] == located[0]["loc"][:1]]
    nearest = max(of_field, key=lambda error: len(error["loc"]))
    forms = {error["msg"].removeprefix(VALID): None for error in of_field if error["loc"] == nearest["loc"]}
    expected = nearest["msg"] if len(forms) == 1 else VALID + " or ".join(forms)
    return nearest | {"msg": expected}


def _location(error: ErrorDetails, data: Any) -> tuple[int | str, ...]:
    """Return the keys and indices of an error's location in the JSON value `data`."""
    location: list[int | str] = []
    for part in error["loc"]:
        if data == error["input"]:
            break  # what follows is the name of a form, or the missing key
        if part in data if isinstance(data, dict) else isinstance(data, list) and isinstance(part, int):
            location.append(part)
            data = data[part]
    return (*location, error["loc"][-1]) if error["type"] == "missing" else tuple(location)


def _relevant(found: Iterable[ErrorDetails]) -> list[ErrorDetails]:
    """Drop the errors for the form of `inputs` (one input or a list) that the client did not use."""
    # The error of a form that `inputs` itself does not have; those of its fields have longer locations.
    whole = (error for error in found if error["loc"][:1] == ("inputs",) and len(error["loc"]) == 2)
    is_list = any(isinstance(error["input"], list) for error in whole)

    def is_meant(error: ErrorDetails) -> bool:
        first, *rest = error["loc"] or ("body",)
        return first != "inputs" or not rest or str(rest[0]).startswith("list[") == is_list

    return list(filter(is_meant, found))


def _explain(error: ErrorDetails, route: RouteName, model: type[TaskRequest]) -> FieldError:
    first, *inner = error["loc"] or ("body",)
    if first == "parameters" and inner:
        refused = parameter_error({**error, "loc": tuple(inner)}, route, ROUTES[route].parameters)
        return FieldError(refused.field, refused.message)
    if first == "inputs":
        return _explain_input(error, list(getattr(ROUTES[route].inputs, "model_fields", ())))
    known = ", ".join(name for name in model.model_fields if name != "options")
    wanted = {"body": f"an object of {known}", "parameters": f"what {route} takes; see GET /docs"}.get(str(first), "")
    hint = did_you_mean(str(first), model.model_fields, f"a request has {known}")
    return FieldError(".".join(map(str, error["loc"]))[:80] or "body", explain(error, hint, wanted))


def _explain_input(error: ErrorDetails, names: list[str]) -> FieldError:
    """Explain an error within `inputs`; `names` are the fields of one input, if it has several texts."""
    # After the first part, pydantic names the alternatives that it tried.
    location = [part for part in error["loc"][2:] if names or isinstance(part, int)]
    refused = input_error(error, names, location)
    return FieldError(refused.field, refused.message)
