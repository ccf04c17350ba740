"""The Open Inference Protocol, version 2, which clients of KServe, Triton and MLServer speak.

https://github.com/kserve/open-inference-protocol; the routes /config and /stats are extensions of Triton. Health is in
service/routes.py. Texts and parameters are checked as the body of the task's own route, and refused with its sentences.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, cast

from fastapi import Path
from starlette.requests import Request
from starlette.responses import Response

from models.errors import InputError
from models.tasks import AnyTask
from service.body import JSON, check_values
from service.contract import TaskRequest, kind_of, parse_request, request_model
from service.errors import FieldError, Unavailable, Unprocessable
from service.heads import Head
from service.inference import Call, Inference, Plan, call_of, json_response, start
from service.lifecycle import Service
from service.openapi import BareRoute, problems
from service.queue import Deadline
from service.settings import Settings
from service.tensors import (
    BINARY,
    HEADER_LENGTH,
    InferRequest,
    InferResponse,
    choose_outputs,
    parse_part,
    read_columns,
    refusal,
    respond,
    split_body,
)
from service.v2_models import (
    EXTENSIONS,
    OUTPUTS,
    PLATFORM,
    ModelMetadata,
    ModelReady,
    ServerMetadata,
    columns,
    config,
    find_model,
    input_names,
    metadata,
    statistics,
)

MEDIA = (*JSON, BINARY)
RESERVED = re.compile(r"sequence_(id|start|end)|priority|timeout|headers|binary_data_output|content_type|triton_.*")
"""Parameters of a request that belong to the protocol and its clients, not to the task."""
MAX_TIMEOUT = 10**12
"""Microseconds that are longer than every deadline."""
PLACE = re.compile(r"inputs\[(\d+)\](?:\.(\w+))?")
REFUSED = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Statuses of what an infer route may refuse."""
REQUEST = {
    "id": "1",
    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["A gorgeous, witty film."]}],
}
RESPONSE = {
    "model_name": "sentiment",
    "model_version": "1.0.0",
    "id": "1",
    "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [1], "data": ["positive"]},
        {"name": "score", "datatype": "FP32", "shape": [1], "data": [0.9991]},
    ],
}
INFER = f"""Tensors in JSON, or in the binary form of Triton: then the header {HEADER_LENGTH} tells how
many bytes of the body are JSON, and the bytes of the tensors follow. The response is binary where the request says so,
by `binary_data_output` or by `binary_data` of an output. `parameters` are those of the head's task; `timeout` is in
microseconds."""


class EveryLabel:
    """A classifier that answers [answer, all labels with their scores]."""

    def __init__(self, task: AnyTask) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def decode(self, encoded: Any, logits: Any, parameters: Any) -> list[Any]:
        """Decode twice: as asked, and without the parameters that leave labels out."""
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
    """Return the name in the path, and the head that it means, once heads are loaded."""
    heads = await inference.service.loaded(inference.deadline)
    name, version = request.path_params["model"], request.path_params.get("version")
    head = find_model(heads, inference.service.settings.model_name, name, version)
    inference.trace.head = inference.trace.log["head"] = head.name
    return name, head


@contextmanager
def renaming(rename: Callable[[str], str]) -> Iterator[None]:
    """Let errors of a task name fields as this request does, not as the body of the task's own route."""
    try:
        yield
    except InputError as error:
        raise InputError(rename(error.field), error.message) from None
    except Unprocessable as error:
        raise Unprocessable([FieldError(rename(each.field), each.message) for each in error.errors]) from None


def _in_tensor(field: str, head: Head) -> str:
    """Return the place of an item as this protocol has it: inputs[3].question → question[3]."""
    names = input_names(head.spec.task)
    return PLACE.sub(lambda m: f"{m[2] or names[0]}[{m[1]}]" if m[2] or len(names) == 1 else m[0], field)


def _plan(inference: Inference, name: str, head: Head, body: bytes, tail: bytes) -> Plan:
    asked = parse_part(body, InferRequest)
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
    parsed = parse_inputs(head, inputs, parameters, settings)
    answering = cast(AnyTask, EveryLabel(head.task)) if every_label else head.task
    return Call(
        head, answering, parsed.inputs, head.with_defaults(head.spec.task, parsed.parameters), is_list=True, nested=True
    )


def parse_inputs(head: Head, inputs: list[Any], parameters: dict[str, Any] | None, settings: Settings) -> TaskRequest:
    """Check a list of inputs as the route of the head's task does; raise Unprocessable."""
    body = json.dumps({"inputs": inputs, "parameters": parameters}, ensure_ascii=False).encode()
    task = head.spec.task
    parsed = parse_request(body, task, request_model(task, settings.max_items, settings.max_characters))
    return parsed.model_copy(update={"inputs": call_of(head, task, parsed.inputs, head.defaults, settings).inputs})


def _shorten(inference: Inference, timeout: object) -> None:
    """Let a timeout in microseconds end the request sooner; 0 is none, as in Triton."""
    if timeout is None:
        return
    if type(timeout) is not int or timeout < 0:
        raise refusal("parameters.timeout", f"is {kind_of(timeout)}; send microseconds, as a whole number from 1")
    if timeout:
        seconds = min(timeout, MAX_TIMEOUT) / 1e6
        inference.deadline = min(inference.deadline, Deadline(inference.trace.started + seconds, seconds))


# ---- routes ---------------------------------------------------------------------------------------------------------

Model = Annotated[str, Path(description="The name of a head")]
Version = Annotated[str, Path(description="The version of its bundle")]
Told = Callable[[Service, str, Head], Any]
"""Makes the answer of a route that tells of a model."""


async def _of_server() -> None: ...
async def _of_model(model: Model) -> None: ...
async def _of_version(model: Model, version: Version) -> None: ...
async def _infer(model: Model, body: InferRequest) -> None: ...
async def _infer_version(model: Model, version: Version, body: InferRequest) -> None: ...


def v2_routes() -> list[BareRoute]:
    """Return all routes below /v2, those of health left out."""
    bases = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    return [
        *(_infer_route(f"{base}/infer") for base in bases),
        _server_route("/v2", "The server", _tell_server, ServerMetadata),
        _server_route("/v2/models/stats", "Statistics of all models, of one worker", _tell_statistics, dict[str, Any]),
        *(model_route(base + suffix, *rest) for base in bases for suffix, *rest in TOLD),
    ]


def _infer_route(path: str) -> BareRoute:
    binary = {BINARY: {"schema": {"type": "string", "format": "binary"}}}
    about = described(path, "Infer, as the Open Inference Protocol has it", REFUSED)
    content = {"application/json": {"example": RESPONSE}} | binary
    about["responses"][200] = {"description": "The outputs", "content": content}
    return BareRoute(
        path,
        _infer_version if "{version}" in path else _infer,
        infer,
        methods=["POST"],
        **about,
        description=INFER,
        response_model=InferResponse,
        openapi_extra={"requestBody": {"content": {"application/json": {"example": REQUEST}} | binary}},
    )


def model_route(path: str, summary: str, told: Told, shape: Any) -> BareRoute:
    """Return a route that tells of the model in its path."""

    async def handler(request: Request) -> Response:
        service: Service = request.app.state.service
        name, version = request.path_params["model"], request.path_params.get("version")
        head = find_model(service.heads, service.settings.model_name, name, version)
        return json_response(told(service, name, head))

    endpoint = _of_version if "{version}" in path else _of_model
    return BareRoute(path, endpoint, handler, **described(path, summary, (401, 404, 503)), response_model=shape)


def _server_route(path: str, summary: str, told: Callable[[Request], Any], shape: Any) -> BareRoute:
    async def handler(request: Request) -> Response:
        return json_response(told(request))

    return BareRoute(path, _of_server, handler, **described(path, summary, (401, 503)), response_model=shape)


def described(path: str, summary: str, refused: Sequence[int]) -> dict[str, Any]:
    """Return what the document says of a route."""
    return {
        "tags": [path.split("/")[1]],
        "summary": summary + (" of a version" if "{version}" in path else ""),
        "operation_id": "_".join(re.findall(r"\w+", path)),
        "responses": problems(*refused, path=path),
    }


def _tell_server(request: Request) -> dict[str, Any]:
    return {"name": PLATFORM, "version": request.app.version, "extensions": EXTENSIONS}


def _tell_statistics(request: Request) -> dict[str, Any]:
    service: Service = request.app.state.service
    return {"model_stats": [statistics(name, head, service.metrics) for name, head in service.heads.by_name.items()]}


def tell_ready(service: Service, name: str, _: Head) -> dict[str, Any]:
    """Return the ModelReady of a model; raise Unavailable."""
    if obstacles := service.obstacles():
        raise Unavailable("; ".join(obstacles))
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
"""Routes that tell of a model: the end of the path, the summary, what makes the answer, and its shape."""
