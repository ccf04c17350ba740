"""The Open Inference Protocol, version 2, which clients of KServe, Triton and MLServer use.

https://github.com/kserve/open-inference-protocol; the routes /config and /stats are extensions of Triton.
Texts and parameters are validated like the body of the task's own route, with the same error messages.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from models.input_errors import kind_of
from models.task_registry import AnyTask
from service.errors import renaming, require_none
from service.heads import Head
from service.inference import Call, Inference, Plan, call_of, json_response, service_of, start
from service.lifecycle import Service
from service.openapi import BareRoute, inference_route
from service.queue import Deadline
from service.request_body import JSON, check_values
from service.request_models import parse_json, parse_request, refusal, request_model
from service.settings import Settings
from service.tensors import (
    BINARY,
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    choose_outputs,
    read_columns,
    respond,
    split_body,
)
from service.v2_models import (
    EXTENSIONS,
    OUTPUTS,
    PLATFORM,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    columns,
    config,
    find_model,
    input_names,
    metadata,
    statistics,
)

MEDIA = (*JSON, BINARY)
RESERVED = re.compile(r"sequence_(id|start|end)|priority|timeout|headers|binary_data_output|content_type|triton_.*")
"""Request parameters of the protocol and its clients, which are not passed to the task."""
MAX_TIMEOUT = 10**12
"""Microseconds; longer than any deadline."""
PLACE = re.compile(r"inputs\[(\d+)\](?:\.(\w+))?")
REQUEST = {
    "id": "1",
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["A gorgeous, witty film."]}],
    "outputs": [{"name": "label"}, {"name": "score"}],
}
RESPONSE = {
    "model_name": "sentiment",
    "model_version": "0.4.0",
    "id": "1",
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["positive"]},
        {"name": "score", "datatype": "FP32", "shape": [1], "data": [0.9807]},
    ],
}
INFER = f"""Tensors in JSON, or in Triton's binary form. With the binary form, the header {HEADER_LENGTH}
is the number of bytes of the body that are JSON; the bytes of the tensors follow. The response is binary if the request
asks for it, with `binary_data_output` or with `binary_data` of an output. `parameters` are those of the head's task;
`timeout` is in microseconds, and the header X-Deadline-Ms in milliseconds."""


class EveryLabel:
    """A classifier whose answers are [answer, all labels with their scores]."""

    def __init__(self, task: AnyTask) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def decode(self, encoded: Any, logits: Any, parameters: Any) -> list[Any]:
        """Decode twice: as requested, and without the parameters that leave labels out."""
        limits = [name for name in ("top_k", "threshold") if name in type(parameters).model_fields]
        every = parameters.model_copy(update=dict.fromkeys(limits))
        return [self._task.decode(encoded, logits, chosen) for chosen in (parameters, every)]


# ---- inference ------------------------------------------------------------------------------------------------------


async def infer(request: Request) -> Response:
    """Answer a request for inference."""
    inference = start(request)
    name, head = await wanted(request, inference)
    header = request.headers.get(HEADER_LENGTH)
    with renaming(lambda field: _in_tensor(field, head)):
        return await inference.respond(
            lambda body: _plan(inference, name, head, *split_body(body, header)),
            MEDIA,
            lambda body: check_values(split_body(body, header)[0]),
        )


async def wanted(request: Request, inference: Inference) -> tuple[str, Head]:
    """Return the name in the path and its head, after waiting for the heads to load."""
    heads = await inference.heads()
    name, version = request.path_params["model"], request.path_params.get("version")
    head = find_model(heads, inference.service.settings.model_name, name, version)
    inference.name(head)
    return name, head


def _in_tensor(field: str, head: Head) -> str:
    """Return the name of a field in this protocol: inputs[3].question → question[3]."""
    names = input_names(head.spec.task)
    return PLACE.sub(lambda m: f"{m[2] or names[0]}[{m[1]}]" if m[2] or len(names) == 1 else m[0], field)


def _plan(inference: Inference, name: str, head: Head, body: bytes, tail: bytes) -> Plan:
    asked = parse_json(body, InferRequest)
    _shorten(inference, (asked.parameters or {}).get("timeout"))
    outputs = choose_outputs(asked, OUTPUTS[head.spec.task])
    call = _call(head, asked, tail, inference.service.settings, "scores" in outputs)
    about = {"model_name": name, "model_version": head.bundle.manifest.version}
    about |= {} if asked.id is None else {"id": asked.id}
    shape = asked.inputs[0].shape
    return Plan([call], lambda answers: respond(about, columns(head, list(outputs), answers[0], shape), outputs))


def _call(head: Head, asked: InferRequest, tail: bytes, settings: Settings, every_label: bool) -> Call:
    found = read_columns(asked, tail, input_names(head.spec.task), settings.max_items)
    rows = zip(*found.values(), strict=True)
    inputs = found["text"] if len(found) == 1 else [dict(zip(found, row, strict=True)) for row in rows]
    parameters = {key: value for key, value in (asked.parameters or {}).items() if not RESERVED.fullmatch(key)}
    call = parse_call(head, inputs, parameters, settings)
    if not call.is_list:
        raise refusal("parameters.is_split_into_words", "is true, but a tensor holds texts; send them to POST /tag")
    return replace(call, task=cast(AnyTask, EveryLabel(head.task))) if every_label else call


def parse_call(head: Head, inputs: list[Any], parameters: dict[str, Any] | None, settings: Settings) -> Call:
    """Return the call for a list of inputs, like the route of the head's task; raise Unprocessable if it is invalid."""
    body = json.dumps({"inputs": inputs, "parameters": parameters}, ensure_ascii=False).encode()
    task = head.spec.task
    asked = parse_request(body, task, request_model(task, settings.max_items, settings.max_characters))
    return call_of(head, task, asked.inputs, head.with_defaults(task, asked.parameters), settings)


def _shorten(inference: Inference, timeout: object) -> None:
    """Shorten the deadline to a timeout in microseconds; 0 means no timeout, as in Triton."""
    if timeout is None:
        return
    if type(timeout) is not int or timeout < 0:
        raise refusal("parameters.timeout", f"is {kind_of(timeout)}; send microseconds, as a whole number from 1")
    if timeout:
        seconds = min(timeout, MAX_TIMEOUT) / 1e6
        inference.deadline = min(inference.deadline, Deadline(inference.info.started + seconds, seconds))


# ---- routes ---------------------------------------------------------------------------------------------------------

Told = Callable[[Service, str, Head], Any]
"""Makes the answer of a route that describes a model, from the service, the name in the path, and the head."""


def v2_routes() -> list[BareRoute]:
    """Return all routes below /v2."""
    bases = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        *(_infer_route(f"{base}/infer") for base in bases),
        _server_route("/v2", "The server", _tell_server, ServerMetadata),
        _server_route("/v2/models/stats", "Statistics of all models, of one worker", _tell_statistics, dict[str, Any]),
        _server_route("/v2/health/live", "Is the process alive?", _tell_live, ServerLive, refused=(503,)),
        _server_route("/v2/health/ready", "Should it get requests?", _tell_server_ready, ServerReady, refused=(503,)),
        *(model_route(base + suffix, *rest) for base in bases for suffix, *rest in TOLD),
    ]


def _infer_route(path: str) -> BareRoute:
    return inference_route(
        path,
        infer,
        (REQUEST, RESPONSE),
        {BINARY: {"schema": {"type": "string", "format": "binary"}}},
        body=InferRequest,
        summary="Run a head by the Open Inference Protocol" + _of_version(path),
        description=INFER,
        response_model=InferResponse,
    )


def _of_version(path: str) -> str:
    return "; the path names the version" if "{version}" in path else ""


def model_route(path: str, summary: str, told: Told, shape: Any) -> BareRoute:
    """Return a route that describes the model in its path."""

    async def handler(request: Request) -> Response:
        service = service_of(request)
        name, version = request.path_params["model"], request.path_params.get("version")
        head = find_model(service.heads, service.settings.model_name, name, version)
        return json_response(told(service, name, head))

    return BareRoute(path, handler, summary=summary + _of_version(path), response_model=shape)


def _server_route(path: str, summary: str, told: Callable[[Request], Any], shape: Any, **options: Any) -> BareRoute:
    async def handler(request: Request) -> Response:
        return json_response(told(request))

    return BareRoute(path, handler, summary=summary, response_model=shape, **options)


def _tell_server(request: Request) -> dict[str, Any]:
    return {"name": PLATFORM, "version": request.app.version, "extensions": EXTENSIONS}


def _tell_statistics(request: Request) -> dict[str, Any]:
    service = service_of(request)
    return {"model_stats": [statistics(name, head, service.metrics) for name, head in service.heads.by_name.items()]}


def _tell_live(request: Request) -> dict[str, Any]:
    require_none(service_of(request).engine.troubles())
    return {"live": True}


def _tell_server_ready(request: Request) -> dict[str, Any]:
    require_none(service_of(request).obstacles())
    return {"ready": True}


def tell_ready(service: Service, name: str, _: Head) -> dict[str, Any]:
    """Return the ModelReady of a model; raise Unavailable if the worker is not ready."""
    require_none(service.obstacles())
    return {"name": name, "ready": True}


TOLD: list[tuple[str, str, Told, Any]] = [
    ("", "Inputs, outputs and labels of a model", lambda _, name, head: metadata(name, head), ModelMetadata),
    ("/ready", "Does a model answer?", tell_ready, ModelReady),
    ("/config", "A model as Triton's ModelConfig", lambda _, name, head: config(name, head), dict[str, Any]),
    (
        "/stats",
        "Triton's statistics of a model, of one worker",
        lambda service, name, head: {"model_stats": [statistics(name, head, service.metrics)]},
        dict[str, Any],
    ),
]
"""Routes that describe a model: the end of the path, the summary, the function for the answer, and its type."""
