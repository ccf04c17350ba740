"""The routes: tasks, heads, health, metrics."""

from inspect import Parameter, Signature
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path, Request, Response
from pydantic import BaseModel, Field

from models.task import TaskName
from models.tasks import ROUTES, RouteName
from service import pages, repository, vllm
from service.contract import TaskRequest, parse_request, request_model
from service.errors import Unavailable, Unprocessable
from service.guards import guard_routes
from service.heads import Head, describe
from service.inference import NESTED, Plan, call_of, json_response, start
from service.lifecycle import Service
from service.openapi import SPENT, BareRoute, Deadline, Handler, answered, problems
from service.settings import Settings
from service.several import several_route
from service.v1 import v1_routes
from service.v2 import v2_routes

router = APIRouter()
SUMMARIES: dict[RouteName, str] = {
    "classify": "Label a text",
    "pair": "Label how two texts relate",
    "fill-mask": "Fill each [MASK] of a text",
    "tag": "Find the entities of a text",
    "qa": "Answer a question from a text",
    "zero-shot": "Rate labels of your choice for a text",
}
EXAMPLES: dict[RouteName, tuple[dict[str, Any], Any]] = {
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
    "zero-shot": (
        {"inputs": "The match ended in a draw.", "parameters": {"candidate_labels": ["sport", "politics"]}},
        [{"label": "sport", "score": 0.97}, {"label": "politics", "score": 0.03}],
    ),
}
"""A request of each task, and its answer."""


# ---- tasks ----------------------------------------------------------------------------------------------------------


def task_routes(settings: Settings) -> list[BareRoute]:
    """Return POST /{task} and /{task}/{head} of every task."""
    return [_task_route(route, path, settings) for route in ROUTES for path in (f"/{route}", f"/{route}/{{head}}")]


def _task_route(route: RouteName, path: str, settings: Settings) -> BareRoute:
    model = request_model(route, settings.max_items, settings.max_characters)
    named = path.endswith("}")
    shared = path == vllm.PATH
    return BareRoute(
        path,
        _documented(model | vllm.ClassificationRequest if shared else model, route, named),
        _task_handler(route, model, settings),
        methods=["POST"],
        tags=["tasks"],
        summary=SUMMARIES[route] + (" with a head of your choice" if named else ""),
        operation_id=route.replace("-", "_") + ("_with_head" if named else ""),
        response_model=answer_type(route) | vllm.ClassificationResponse if shared else answer_type(route),
        responses=answered(EXAMPLES[route][1]) | problems(*SPENT),
        openapi_extra={"requestBody": {"content": {"application/json": {"example": EXAMPLES[route][0]}}}},
    )


def answer_type(route: RouteName) -> Any:
    """Return what a route answers: to one input, or to several."""
    one = ROUTES[route].answer_type()
    several = list.__class_getitem__(one)
    return several if route in NESTED else one | several


def _documented(model: Any, route: RouteName, named: bool) -> Any:
    """Return a function whose signature tells FastAPI what the route takes."""

    async def endpoint(**_: Any) -> None: ...

    head = Annotated[str, Path(description=f"A head for {route}; GET /heads lists them")]
    kinds = {"body": model, "x_deadline_ms": Deadline} | ({"head": head} if named else {})
    parameters = [
        Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=None if kind is Deadline else Parameter.empty)
        for name, kind in kinds.items()
    ]
    endpoint.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return endpoint


def _task_handler(route: RouteName, model: type[TaskRequest], settings: Settings) -> Handler:
    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.heads()
        head = heads.find(route, request.path_params.get("head"))
        inference.trace.head = inference.trace.log["head"] = head.name

        def plan(body: bytes) -> Plan:
            try:
                asked = parse_request(body, route, model)
            except Unprocessable as error:
                if request.url.path == vllm.PATH and {"input", "inputs"} <= {each.field for each in error.errors}:
                    return vllm.plan(body, heads, inference)
                raise
            return plan_task(head, route, asked, settings)

        return await inference.respond(plan)

    return handler


def plan_task(head: Head, route: RouteName, asked: TaskRequest, settings: Settings) -> Plan:
    """Return the one call of a task route."""
    call = call_of(head, route, asked.inputs, head.with_defaults(route, asked.parameters), settings)
    return Plan([call], lambda answers: json_response(call.shaped(answers[0])))


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
    routes: list[str] = Field(description="All routes on which it answers, that of its task first")
    default: bool = Field(description="Whether the route without a name answers with this head")
    labels: list[str] = Field(description="The labels of its answers, in the order of its logits")
    parameters: dict[str, Any] = Field(description="What holds where a request does not say otherwise")
    limits: Limits = Field(description="What one request may hold")
    metrics: dict[str, Any] = Field(description="What was measured when it was trained or exported")
    bundle: BundleName = Field(description="Where it comes from")
    precision: str = Field(description="Of its encoder: int8, fp16 or fp32")
    provider: str = Field(description="What ONNX Runtime runs it on: cpu or cuda")
    sha256: str = Field(description="Of bundle.json, which holds the hashes of all other files of the bundle")


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


class WorkerCount(BaseModel):
    """Workers of the service: one that is ready answers, whether the others are or not."""

    ready: int = Field(description="Workers that are ready, the one that answers among them")
    of: int = Field(description="Workers that there should be")


class Readiness(Status):
    """The answer of a worker that is ready."""

    workers: WorkerCount = Field(description="How many are ready")


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
async def ready(request: Request) -> Readiness:
    service = _service(request)
    if obstacles := service.obstacles():
        raise Unavailable("; ".join(obstacles))
    workers = WorkerCount(ready=await service.metrics.ready_workers(), of=service.settings.worker_count)
    return Readiness(status="ready", workers=workers)


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
    page, media_type = await _service(request).metrics.page(request.headers.get("accept", ""))
    return Response(page, media_type=media_type)


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add all routes to an app that has its service in its state; those that every request takes come first."""
    tasks = [*task_routes(settings), several_route(settings), *guard_routes(), *v2_routes(), *v1_routes()]
    app.router.routes += [*tasks, *router.routes, *repository.router.routes, *pages.router.routes]
