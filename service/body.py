"""From the bytes of a request to its inputs and parameters, or to an error that names the field.

Strict where JSON parsers usually are not: no NaN, no duplicate keys, no unknown keys. What is inside a text is the
tokenizer's to judge; its length is judged here, before anything is spent on it.
"""

import difflib
import json
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from starlette.types import Receive

from models.errors import InputError
from models.task import Strict
from models.tasks import AnyTask
from service.errors import BadRequest, ClientGone, FieldError, TooLarge, Unprocessable, UnsupportedMedia, queue_full
from service.heads import Head
from service.settings import Settings

KEYS = ("inputs", "parameters")
LONG_BODY = 1 << 16
"""Bytes from which parsing leaves the event loop, and others may have to wait."""
MOST_BODIES = 1 << 28
"""Bytes of all bodies that are under way, from their first to the answer: as they came, or as their texts lie here."""
MOST_ERRORS = 16
"""Errors that one answer names."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client wants of a head."""

    inputs: list[Any]
    """Each is an instance of the task's `inputs`."""
    is_list: bool
    """Whether the client sent a list, and gets one."""
    parameters: Strict

    @property
    def characters(self) -> int:
        """Of all texts: what tokenising will take, before it is known."""
        return self.parameters.characters + sum(len(text) for item in self.inputs for text in _texts(item))

    @property
    def size(self) -> int:
        """Bytes of all texts in memory, where one character beyond U+FFFF makes each of its text take four."""
        return sum(sys.getsizeof(text) for item in self.inputs for text in _texts(item))


class Bodies:
    """Counts the bytes of all bodies, so that many long ones at a time do not fill the memory."""

    def __init__(self) -> None:
        self.size = 0

    @contextmanager
    def one(self) -> Iterator[Callable[[int], None]]:
        """Yield what counts further bytes of one body; raises QueueFull for a long one beside too many of others."""
        mine = 0

        def add(size: int) -> None:
            nonlocal mine
            mine += size
            self.size += size
            if mine > LONG_BODY and self.size > MOST_BODIES:
                error = queue_full(f"bodies of {self.size} bytes are under way, and at most {MOST_BODIES} may be", 1)
                error.headers["Connection"] = "close"  # its rest is not read
                raise error

        try:
            yield add
        finally:
            self.size -= mine


async def read_body(headers: Mapping[str, str], receive: Receive, limit: int, count: Callable[[int], None]) -> bytes:
    """Return the body, which `count` is told of piece by piece, and may refuse.

    Raises TooLarge as soon as more than `limit` bytes are announced or have come.
    """
    _check_media(headers.get("content-type", ""))
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(f"of {announced} bytes", limit)
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client left before its request was complete")
        piece = message.get("body", b"")
        body += piece
        if len(body) > limit:
            raise _too_large("in chunks", limit)
        count(len(piece))
        if not message.get("more_body", False):
            return bytes(body)


def parse_json(body: bytes) -> object:
    """Parse one JSON document; raise BadRequest saying what is wrong and where."""
    try:
        return json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise _malformed(f"is not UTF-8: byte {error.start} is 0x{body[error.start]:02x}") from None
    except json.JSONDecodeError as error:
        raise _malformed(f"is not JSON: {error.msg.lower()} at character {error.pos}") from None
    except RecursionError:
        raise _malformed("is nested too deeply") from None
    except ValueError:  # more digits than Python converts (sys.set_int_max_str_digits)
        raise _malformed("has a number of thousands of digits") from None


def parse_call(document: object, head: Head, settings: Settings) -> Call:
    """Check a parsed document against the head's task; raise Unprocessable or InputError."""
    if not isinstance(document, dict):
        raise Unprocessable([FieldError("body", f'is {_kind(document)}; send {{"inputs": …, "parameters": {{…}}}}')])
    if unknown := _first_unknown(document, KEYS):
        raise Unprocessable([FieldError(key[:80], _unknown(key)) for key in unknown])
    if "inputs" not in document:
        raise Unprocessable([FieldError("inputs", "is missing; send the text, or a list of texts")])
    inputs = document["inputs"]
    is_list = isinstance(inputs, list)
    return Call(
        _parse_inputs(inputs, head.task, settings) if is_list else [_one_input(inputs, head.task, settings)],
        is_list,
        _parse_parameters(document.get("parameters"), head),
    )


def _parse_parameters(given: object, head: Head) -> Strict:
    if not given and (given is None or isinstance(given, dict)):
        return head.defaults
    if not isinstance(given, dict):
        raise InputError("parameters", f"is {_kind(given)}; send an object such as {{}}")
    parameters: Strict = head.task.parse_parameters(given)
    return parameters


def _parse_inputs(values: list[object], task: AnyTask, settings: Settings) -> list[Any]:
    if not 1 <= len(values) <= settings.max_items:
        raise InputError("inputs", f"has {len(values)} items; send 1 to {settings.max_items}")
    inputs, errors = [], list[FieldError]()
    for index, value in enumerate(values):
        try:
            inputs.append(_one_input(value, task, settings))
        except Unprocessable as error:
            errors += [FieldError(place(each.field, index), each.message) for each in error.errors]
    if errors:
        raise Unprocessable(errors[:MOST_ERRORS])
    return inputs


def place(field: str, index: int) -> str:
    """Return the field of an item of a list: inputs.question → inputs[3].question."""
    return f"inputs[{index}]{field.removeprefix('inputs')}" if field.startswith("inputs") else field


def _one_input(value: object, task: AnyTask, settings: Settings) -> Any:
    parsed = _parsed(value, task.inputs)
    limit = settings.max_characters
    errors = [
        FieldError(f"inputs{name}", f"has {len(text)} characters; at most {limit} are allowed, so send it in parts")
        for name, text in _named_texts(parsed)
        if len(text) > limit
    ]
    if errors:
        raise Unprocessable(errors)
    return parsed


def _parsed(value: object, kind: type[Any]) -> Any:
    if kind is str:
        if isinstance(value, str):
            return value
        raise Unprocessable([FieldError("inputs", f"is {_kind(value)}, but must be a text or a list of texts")])
    assert issubclass(kind, BaseModel)
    names = ", ".join(f'"{name}": …' for name in kind.model_fields)
    if not isinstance(value, dict):
        raise Unprocessable(
            [FieldError("inputs", f"is {_kind(value)}, but must be an object {{{names}}} or a list of such")]
        )
    if unknown := _first_unknown(value, kind.model_fields):
        raise Unprocessable([FieldError(f"inputs.{key[:80]}", f"is unknown; send {{{names}}}") for key in unknown])
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        raise Unprocessable(
            [
                FieldError(f"inputs.{'.'.join(map(str, e['loc']))[:80]}", _explain(e["type"], e["input"], names))
                for e in details
            ]
        ) from None


def _first_unknown(found: dict[str, Any], known: Container[str]) -> list[str]:
    return list(islice((key for key in found if key not in known), MOST_ERRORS))


def _explain(kind: str, value: object, names: str) -> str:
    if kind == "missing":
        return f"is missing; send {{{names}}}"
    return f"is {_kind(value)}, but must be a text"


def _named_texts(parsed: Any) -> Iterable[tuple[str, str]]:
    if isinstance(parsed, str):
        return [("", parsed)]
    return [(f".{name}", getattr(parsed, name)) for name in type(parsed).model_fields]


def _texts(parsed: Any) -> Iterable[str]:
    return (text for _, text in _named_texts(parsed))


def _unknown(key: str) -> str:
    nearest = difflib.get_close_matches(key[:80], KEYS, n=1)
    return f"is unknown; did you mean {nearest[0]}?" if nearest else f"is unknown; a request has {' and '.join(KEYS)}"


def _kind(value: object) -> str:
    """Name what JSON calls a value, with the value where it is short."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value!r}" if abs(value) < 10**15 else "a huge number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


# What `curl -d` and urllib declare when nobody tells them what they send.
UNDECLARED = ("", "application/x-www-form-urlencoded")


def _check_media(content_type: str) -> None:
    media = content_type.partition(";")[0].strip().lower()
    if media not in UNDECLARED and media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMedia(
            f"the body is declared as {media[:80]}; send JSON with Content-Type: application/json", field="Content-Type"
        )


def _too_large(what: str, limit: int) -> TooLarge:
    # The rest of the body is not read, so the connection cannot be used again.
    sentence = f"the body {what} exceeds the limit of {limit} bytes; send fewer or shorter inputs"
    return TooLarge(sentence, field="body", headers={"Connection": "close"})


def _malformed(sentence: str) -> BadRequest:
    return BadRequest(f"the body {sentence}", field="body")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        seen = set[str]()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _malformed(f"has the key {twice[:80]!r} twice in one object")
    return members


def _no_constant(name: str) -> NoReturn:
    raise _malformed(f"has {name}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _malformed(f"has the number {digits[:40]}, which is too large")
    return number
