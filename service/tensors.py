"""Tensors of the Open Inference Protocol, in JSON and in the binary form.

The JSON form: https://github.com/kserve/open-inference-protocol, "Inference Request JSON Object".
The binary form: Triton's protocol/extension_binary_data.md. The body is the JSON, whose length is in a header, followed
by the bytes of the tensors that have a `binary_data_size`. An element of BYTES is its length (four bytes, little
endian) followed by its bytes.
"""

import json
import math
import struct
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from models.input_errors import kind_of
from models.task import Strict
from service.errors import FieldError, Unprocessable
from service.request_models import refusal

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header with the number of bytes of the (decompressed) body that are JSON."""
BINARY = "application/octet-stream"
LENGTH = struct.Struct("<I")
NUMPY = {"FP32": "<f4", "INT64": "<i8"}
"""NumPy types by datatype; BYTES has none."""
UNSUPPORTED = ("classification", "shared_memory_region")
"""Parameters of an output that would change where or what the output is."""

Parameters = Annotated[dict[str, Any] | None, Field(description="Parameters by name; those of Triton are accepted")]


class View(BaseModel):
    """Base of the models of answers; the docstring of a field is its description."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class InputTensor(Strict):
    """One input for all items of a request."""

    name: str
    """One of the inputs in the model's metadata."""
    datatype: str
    """BYTES."""
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=2)
    """[n] or [n, 1], with n items."""
    parameters: Parameters = None
    data: list[Any] | None = None
    """n texts, flat or nested as `shape` says; absent in the binary form."""


class OutputChoice(Strict):
    """An output that the client asks for."""

    name: str
    """One of the outputs in the model's metadata."""
    parameters: Parameters = None


class InferRequest(Strict):
    """Texts for a head."""

    id: str | None = None
    """Returned in the response."""
    model_name: str | None = None
    """Accepted without effect: the path names the model."""
    model_version: str | None = None
    """Accepted without effect: the path names the version."""
    parameters: Parameters = None
    inputs: list[InputTensor] = Field(min_length=1)
    """Each input in the model's metadata once, all with the same number of items."""
    outputs: list[OutputChoice] | None = None
    """The outputs to return, in this order; by default all except `scores`."""


class OutputTensor(View):
    """One output for all items."""

    name: str
    """One of the outputs in the model's metadata."""
    datatype: str
    """BYTES, FP32 or INT64."""
    shape: list[int]
    """The shape of the inputs; [n, labels] for `scores`."""
    data: list[str | float]
    """Flat, in row-major order."""


class InferResponse(View):
    """The answers of a head."""

    model_name: str
    """The name in the path."""
    model_version: str
    """The version of the head's bundle."""
    id: str | None = None
    """The id of the request, if it had one."""
    outputs: list[OutputTensor]
    """In the order of the request."""


class Column(NamedTuple):
    """One output for all items of a request."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: list[Any]
    """Flat, in row-major order."""


def split_body(body: bytes, header: str | None) -> tuple[bytes, bytes]:
    """Return the JSON of a body and the bytes after it; `header` is the value of HEADER_LENGTH, if it was sent.

    Raises BadRequest for a wrong length.
    """
    if header is None:
        return body, b""
    if not header.isdecimal() or len(header) > 12 or not 1 <= int(header) <= len(body):
        raise refusal(
            HEADER_LENGTH,
            f"is {header[:40]!r}, but the body has {len(body)} bytes; send how many of them are JSON, from 1",
        )
    return body[: int(header)], body[int(header) :]


def read_columns(request: InferRequest, tail: bytes, names: Sequence[str], limit: int) -> dict[str, list[Any]]:
    """Return the items of each input by its name; `tail` holds the bytes after the JSON.

    Raises BadRequest for invalid or inconsistent tensors, and Unprocessable for more than `limit` items.
    """
    columns: dict[str, list[Any]] = {}
    for number, tensor in enumerate(request.inputs):
        place = f"inputs[{number}]"
        if tensor.name not in names:
            raise refusal(f"{place}.name", f"is {tensor.name[:80]!r}, but this model takes {', '.join(names)}")
        if tensor.name in columns:
            raise refusal(f"{place}.name", f"is {tensor.name}, which occurs twice; send each input once")
        columns[tensor.name], tail = _take(tensor, tail, place, limit)
    _check_whole(columns, tail, names)
    return columns


def _check_whole(columns: dict[str, list[Any]], tail: bytes, names: Sequence[str]) -> None:
    if missing := [name for name in names if name not in columns]:
        raise refusal("inputs", f"lacks {missing[0]}; send {' and '.join(names)}")
    if len({len(items) for items in columns.values()}) > 1:
        counts = " and ".join(f"{name} has {len(items)}" for name, items in columns.items())
        raise refusal("inputs", f"differ in their number of items: {counts}; send as many of each")
    if tail:
        raise refusal(
            "body", f"has {len(tail)} more bytes than the JSON announces; correct binary_data_size of the inputs"
        )


def _take(tensor: InputTensor, tail: bytes, place: str, limit: int) -> tuple[list[Any], bytes]:
    """Return the items of a tensor, and the tail without its bytes."""
    count = math.prod(tensor.shape)
    if tensor.datatype != "BYTES":
        raise refusal(f"{place}.datatype", f"is {tensor.datatype[:40]!r}; send texts as BYTES")
    if tensor.shape[1:] not in ([], [1]):
        raise refusal(f"{place}.shape", f"is {tensor.shape}; send [n] or [n, 1] for n items")
    if count > limit:
        raise Unprocessable([FieldError(tensor.name, f"has {count} items; send 1 to {limit}")])
    size = (tensor.parameters or {}).get("binary_data_size")
    if size is None:
        return _flat(tensor, count, place), tail
    if type(size) is not int or not 0 <= size <= len(tail) or tensor.data is not None:
        raise refusal(
            f"{place}.parameters.binary_data_size",
            f"is {_shown(size)}, and {len(tail)} bytes are left after the JSON; send the size of its bytes, no data, "
            f"and the length of the JSON as {HEADER_LENGTH}",
        )
    return _texts(tail[:size], count, place), tail[size:]


def _flat(tensor: InputTensor, count: int, place: str) -> list[Any]:
    items = tensor.data
    if items is None:
        raise refusal(f"{place}.data", f"is missing; send {count} texts, or their bytes and binary_data_size")
    if len(tensor.shape) == 2 and items and all(isinstance(item, list) for item in items):
        items = [text for item in items for text in item]
    if len(items) != count:
        raise refusal(f"{place}.data", f"has {len(items)} items, but its shape {tensor.shape} makes {count}")
    return items


def _texts(raw: bytes, count: int, place: str) -> list[str]:
    """Return the texts of a BYTES tensor in its binary form."""
    texts, offset = [], 0
    for number in range(count):
        start = offset + LENGTH.size
        if start > len(raw) or (offset := start + LENGTH.unpack_from(raw, start - LENGTH.size)[0]) > len(raw):
            raise refusal(place, f"has {len(raw)} bytes, which end within item {number} of {count}; send all of them")
        try:
            texts.append(raw[start:offset].decode())
        except UnicodeDecodeError as error:
            wrong = raw[start + error.start]
            raise refusal(place, f"item {number} is not UTF-8: its byte {error.start} is 0x{wrong:02x}") from None
    if offset < len(raw):
        raise refusal(
            place, f"has {len(raw)} bytes, but {count} items take {offset}; correct shape or binary_data_size"
        )
    return texts


def choose_outputs(request: InferRequest, known: Sequence[str]) -> dict[str, bool]:
    """Return the names of the outputs that a request asks for, and whether each is binary.

    By default these are all outputs except `scores`. Raises BadRequest for an output that the model does not have.
    """
    usual = flag(request.parameters, "binary_data_output", "parameters", default=False)
    if not request.outputs:
        return {name: usual for name in known if name != "scores"}
    chosen: dict[str, bool] = {}
    for number, output in enumerate(request.outputs):
        place = f"outputs[{number}]"
        if output.name not in known:
            raise refusal(f"{place}.name", f"is {output.name[:80]!r}, but this model has {', '.join(known)}")
        if output.name in chosen:
            raise refusal(f"{place}.name", f"is {output.name}, which occurs twice; ask for each output once")
        if unsupported := [name for name in UNSUPPORTED if name in (output.parameters or {})]:
            raise refusal(f"{place}.parameters.{unsupported[0]}", "is not supported; leave it out, and read the tensor")
        chosen[output.name] = flag(output.parameters, "binary_data", f"{place}.parameters", default=usual)
    return chosen


def flag(parameters: dict[str, Any] | None, name: str, place: str, default: bool) -> bool:
    """Return a boolean parameter, or `default` if it is missing; raise BadRequest for another value."""
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise refusal(f"{place}.{name}", f"is {_shown(value)}; send true or false")
    return value


def respond(about: dict[str, Any], columns: Sequence[Column], binary: dict[str, bool]) -> Response:
    """Return the response with these columns; `binary` tells for each name whether to send it in the binary form."""
    outputs: list[dict[str, Any]] = []
    tail = b""
    for column in columns:
        output: dict[str, Any] = {"name": column.name, "datatype": column.datatype, "shape": list(column.shape)}
        if binary[column.name]:
            raw = _raw(column)
            tail += raw
            output["parameters"] = {"binary_data_size": len(raw)}
        else:
            output["data"] = column.values
        outputs.append(output)
    head = json.dumps({**about, "outputs": outputs}, ensure_ascii=False, separators=(",", ":")).encode()
    if not any(binary.values()):
        return Response(head, media_type="application/json")
    return Response(head + tail, media_type=BINARY, headers={HEADER_LENGTH: str(len(head))})


def _raw(column: Column) -> bytes:
    if column.datatype != "BYTES":
        return np.array(column.values, NUMPY[column.datatype]).tobytes()
    items = [text.encode() for text in column.values]
    return b"".join(LENGTH.pack(len(item)) + item for item in items)


def _shown(value: object) -> str:
    return kind_of(value) if not isinstance(value, str) else repr(value[:40])
