"""The routes: tasks, heads, health, metrics."""

from inspect import Parameter, Signature
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Path, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from models.classification import ScoredLabel
from models.fill_mask import Choice
from models.qa import Answer
from models.tagging import Span, Token
from models.task import TaskName
from models.tasks import TASKS
from service import pages
from service.contract import TaskRequest, parse_request, request_model
from service.errors import Unavailable
from service.heads import Head, describe
from service.inference import Call, Plan, json_response, start
from service.lifecycle import Service
from service.openapi import BareRoute, Handler, answered, problems
from service.settings import Settings
from service.v1 import v1_routes
from service.v2 import v2_routes

router = APIRouter()
SPENT = (400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Statuses of what a task route may refuse."""
SUMMARIES: dict[TaskName, str] = {
    "classify": "Label a text",
    "pair": "Label how two texts relate",
    "fill-mask": "Fill each [MASK] of a text",
    "tag": "Find the entities of a text",
    "qa": "Answer a question from a text",
}
EXAMPLES: dict[TaskName, tuple[dict[str, Any], Any]] = {
    "classify": (
        {"inputs": "A gorgeous, witty film.", "parameters": {"top_k": 2}},
        [[{"label": "positive", "score": 0.9991}, {"label": "negative", "score": 0.0009}]],
    ),
    "pair": (
        {"inputs": {"text": "A man plays a guitar.", "text_pair": "Someone makes music."}},
        [[{"label": "entailment", "score": 0.95}, {"label": "neutral", "score": 0.05}]],
    ),
    "fill-mask": (
        {"inputs": "Paris is the [MASK] of France.", "parameters": {"top_k": 1}},
        [{"score": 0.99, "token": 3007, "token_str": "capital", "sequence": "paris is the capital of france."}],
    ),
    "tag": (
        {"inputs": "Clara lives in Berkeley.", "parameters": {"aggregation_strategy": "simple"}},
        [{"entity_group": "PER", "score": 0.99, "word": "Clara", "start": 0, "end": 5}],
    ),
    "qa": (
        {"inputs": {"question": "Where does Clara live?", "context": "Clara lives in Berkeley."}},
        {"score": 0.93, "start": 15, "end": 23, "answer": "Berkeley"},
    ),
}
"""A request of each task, and its answer."""


Tagged = list[Span] | list[Token]
ANSWERS: dict[TaskName, Any] = {
    "classify": list[list[ScoredLabel]],
    "pair": list[list[ScoredLabel]],
    "fill-mask": list[Choice] | list[list[Choice]] | list[list[list[Choice]]],
    "tag": Tagged | list[Tagged],
    "qa": Answer | list[Answer] | list[list[Answer]],
}
"""What each task may answer: to one input or several, one mask or several, the best answer or more."""


# ---- tasks ----------------------------------------------------------------------------------------------------------

Deadline = Annotated[
    int | None,
    Header(ge=1, lt=10**12, description="Milliseconds after which the client no longer needs the answer"),
]


def task_routes(settings: Settings) -> list[BareRoute]:
    """Return POST /{task} and /{task}/{head} of every task."""
    return [_task_route(task, path, settings) for task in TASKS for path in (f"/{task}", f"/{task}/{{head}}")]


def _task_route(task: TaskName, path: str, settings: Settings) -> BareRoute:
    model = request_model(task, settings.max_items, settings.max_characters)
    named = path.endswith("}")
    return BareRoute(
        path,
        _documented(model, task, named),
        _task_handler(task, model),
        methods=["POST"],
        tags=["tasks"],
        summary=SUMMARIES[task] + (" with a head of your choice" if named else ""),
        operation_id=task.replace("-", "_") + ("_with_head" if named else ""),
        response_model=ANSWERS[task],
        responses=answered(EXAMPLES[task][1]) | problems(*SPENT),
        openapi_extra={"requestBody": {"content": {"application/json": {"example": EXAMPLES[task][0]}}}},
    )


def _documented(model: type[BaseModel], task: TaskName, named: bool) -> Any:
    """Return a function whose signature tells FastAPI what the route takes."""

    async def endpoint(**_: Any) -> None: ...

    head = Annotated[str, Path(description=f"A head for {task}; GET /heads lists them")]
    kinds = {"body": model, "x_deadline_ms": Deadline} | ({"head": head} if named else {})
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=None if kind is Deadline else Parameter.empty)
        for name, kind in kinds.items()
    ]
    endpoint.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return endpoint


def _task_handler(task: TaskName, model: type[TaskRequest]) -> Handler:
    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.service.loaded(inference.deadline)
        head = heads.find(task, request.path_params.get("head"))
        inference.trace.head = inference.trace.log["head"] = head.name
        return await inference.respond(lambda body: plan_task(head, parse_request(body, task, model)))

    return handler


def plan_task(head: Head, asked: TaskRequest) -> Plan:
    """Return the one call of a task route. Classifiers answer a single text with a list: clients read response[0]."""
    is_list = isinstance(asked.inputs, list)
    inputs = asked.inputs if is_list else [asked.inputs]
    nested = is_list or head.spec.task in ("classify", "pair")
    call = Call(head, head.task, inputs, head.with_defaults(asked.parameters), is_list)
    return Plan([call], lambda answers: json_response(answers[0] if nested else answers[0][0]))


# ---- what is served, and how it is -----------------------------------------------------------------------------------


class Limits(BaseModel):
    """What one request may hold."""

    max_length: int = Field(description="Tokens of a row, special ones included")
    max_characters: int = Field(description="Characters of a text")
    max_items: int = Field(description="Inputs of a list")


class BundleName(BaseModel):
    """The bundle that a head comes from."""

    name: str = Field(description="As in the header X-Bundle, before the slash")
    version: str = Field(description="As in the header X-Bundle, behind the slash")


class HeadDescription(BaseModel):
    """What is served under a name."""

    name: str = Field(description="The last part of its route")
    task: TaskName = Field(description="The first part of its route")
    route: str = Field(description="Where it answers")
    default: bool = Field(description="Whether the route without a name answers with this head")
    labels: list[str] = Field(description="The labels of its answers, in the order of its logits")
    parameters: dict[str, Any] = Field(description="What holds where a request does not say otherwise")
    limits: Limits = Field(description="What one request may hold")
    metrics: dict[str, Any] = Field(description="What was measured when it was trained or exported")
    bundle: BundleName = Field(description="Where it comes from")
    precision: str = Field(description="Of its encoder: int8, fp16 or fp32")
    provider: str = Field(description="What ONNX Runtime runs it on: cpu or cuda")
    sha256: dict[str, str] = Field(description="Hashes of the files that it is made of")


class HeadList(BaseModel):
    """All heads."""

    heads: list[HeadDescription] = Field(description="In load order; the first of a task is its default")


class Status(BaseModel):
    """The answer to a probe."""

    status: str = Field(description="live or ready")


class V2Live(BaseModel):
    """The answer to a probe of the Open Inference Protocol."""

    live: bool = Field(description="Always true; a process that is not live is an error")


class V2Ready(BaseModel):
    """The answer to a probe of the Open Inference Protocol."""

    ready: bool = Field(description="Always true; a service that is not ready is an error")


HeadName = Annotated[str, Path(description="The name of a head; GET /heads lists them")]


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get(
    "/heads", summary="List what is served", tags=["heads"], response_model=HeadList, responses=problems(401, 503)
)
async def list_heads(request: Request) -> Any:
    service = _service(request)
    return {"heads": [describe(head, service.heads, service.settings) for head in service.heads.by_name.values()]}


@router.get(
    "/heads/{head}",
    summary="Describe a head",
    tags=["heads"],
    response_model=HeadDescription,
    responses=problems(401, 404, 503),
)
async def show_head(request: Request, head: HeadName) -> Any:
    service = _service(request)
    return describe(service.heads.get(head), service.heads, service.settings)


@router.get("/health/live", summary="Is the process alive?", tags=["health"], responses=problems(503))
async def live(request: Request) -> Status:
    if troubles := _service(request).engine.troubles():
        raise Unavailable("; ".join(troubles))
    return Status(status="live")


@router.get("/health/ready", summary="Should it get requests?", tags=["health"], responses=problems(503))
async def ready(request: Request) -> Status:
    service = _service(request)
    if obstacles := service.obstacles():
        raise Unavailable("; ".join(obstacles))
    workers = service.settings.workers
    if workers > 1 and (others := service.metrics.ready_workers()) < workers:
        raise Unavailable(f"loading: {others} of {workers} workers are ready")
    return Status(status="ready")


@router.get("/v2/health/live", summary="Is the process alive?", tags=["v2"], responses=problems(503, path="/v2"))
async def v2_live(request: Request) -> V2Live:
    await live(request)
    return V2Live(live=True)


@router.get("/v2/health/ready", summary="Should it get requests?", tags=["v2"], responses=problems(503, path="/v2"))
async def v2_ready(request: Request) -> V2Ready:
    await ready(request)
    return V2Ready(ready=True)


@router.get("/metrics", summary="Figures for Prometheus", tags=["health"], response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.expose(), media_type=CONTENT_TYPE_LATEST)


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add all routes to an app that has its service in its state; those that every request takes come first."""
    app.router.routes += [*task_routes(settings), *v2_routes(), *v1_routes()]
    app.include_router(router)
    app.include_router(pages.router)
