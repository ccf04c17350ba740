"""The routes: tasks, heads, health, metrics."""

from collections.abc import Callable
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field

from models.task import ProblemType, TaskName
from models.task_registry import ROUTES, RouteName
from service import pages, vllm
from service.errors import Unprocessable, renaming, require_none
from service.explain import explain_routes
from service.guards import guard_routes
from service.heads import Head, describe
from service.inference import NESTED, Plan, call_of, json_response, service_of, start
from service.openapi import BareRoute, inference_route
from service.repository import repository_routes
from service.request_models import TaskRequest, parse_request, request_model
from service.rerank import rerank_routes
from service.settings import Settings
from service.several_heads import several_route
from service.v1 import v1_routes
from service.v2 import v2_routes

ASKED: dict[RouteName, Any] = {
    "classify": {"inputs": "A gorgeous, witty film.", "parameters": {"top_k": 2}},
    "pair": {"inputs": {"text": "A man plays a guitar.", "text_pair": "Someone makes music."}},
    "fill-mask": {"inputs": "He was born in the [MASK] States.", "parameters": {"top_k": 1}},
    "tag": {"inputs": "Clara lives in Berkeley.", "parameters": {"aggregation_strategy": "simple"}},
    "qa": {"inputs": {"question": "Where does Clara live?", "context": "Clara lives in Berkeley."}},
    "zero-shot": {"inputs": "The match ended in a draw.", "parameters": {"candidate_labels": ["sport", "politics"]}},
}
"""An example request for each task."""
ANSWERED: dict[RouteName, Any] = {
    "classify": [[{"label": "positive", "score": 0.9807}, {"label": "negative", "score": 0.0193}]],
    "pair": [
        [
            {"label": "entailment", "score": 0.7783},
            {"label": "neutral", "score": 0.1725},
            {"label": "contradiction", "score": 0.0492},
        ]
    ],
    "fill-mask": [
        {"score": 0.9636, "token": 2142, "token_str": "united", "sequence": "he was born in the united states."}
    ],
    "tag": [
        {"entity_group": "PER", "score": 0.9998, "word": "Clara", "start": 0, "end": 5},
        {"entity_group": "LOC", "score": 0.9996, "word": "Berkeley", "start": 15, "end": 23},
    ],
    "qa": {"score": 0.7816, "start": 15, "end": 23, "answer": "Berkeley"},
    "zero-shot": [{"label": "sport", "score": 0.6276}, {"label": "politics", "score": 0.3724}],
}
"""The answer of the starter bundle to each example."""


# ---- tasks ----------------------------------------------------------------------------------------------------------


def task_route(route: RouteName, path: str, settings: Settings) -> BareRoute:
    """Return POST /{task} or /{task}/{head}."""
    model = request_model(route, settings.max_items, settings.max_characters)

    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.heads()
        head = heads.find(route, request.path_params.get("head"))
        inference.name(head)
        rename: Callable[[str], str] = str

        def plan(body: bytes) -> Plan:
            nonlocal rename
            try:
                asked = parse_request(body, route, model)
            except Unprocessable as error:
                if path == vllm.PATH and {"input", "inputs"} <= {each.field for each in error.errors}:
                    rename = vllm.rename
                    return vllm.plan(body, heads, inference)
                raise
            return plan_task(head, route, asked, settings)

        with renaming(lambda field: rename(field)):
            return await inference.respond(plan)

    summary = str(ROUTES[route].__doc__).rstrip(".") + ("; the path names the head" if "{" in path else "")
    examples = (ASKED[route], ANSWERED[route])
    body: Any = model | vllm.ClassificationRequest if path == vllm.PATH else model
    answer = answer_type(route) | vllm.ClassificationResponse if path == vllm.PATH else answer_type(route)
    return inference_route(path, handler, examples, body=body, summary=summary, response_model=answer)


def answer_type(route: RouteName) -> Any:
    """Return the type of a route's answer, to one input or to several."""
    one = ROUTES[route].answer_type()
    several = list.__class_getitem__(one)
    return several if route in NESTED else one | several


def plan_task(head: Head, route: RouteName, asked: TaskRequest, settings: Settings) -> Plan:
    """Return the plan of a task route, which makes one call."""
    call = call_of(head, route, asked.inputs, head.with_defaults(route, asked.parameters), settings)
    return Plan([call], lambda answers: json_response(call.shaped(answers[0])))


# ---- heads, health, metrics -----------------------------------------------------------------------------------------


class Limits(BaseModel):
    """Limits of one request."""

    max_length: int = Field(description="Tokens of a row, special ones included")
    max_characters: int = Field(description="Characters of a text")
    max_items: int = Field(description="Inputs of a list")


class BundleName(BaseModel):
    """The bundle that a head comes from."""

    name: str = Field(description="The part of the header X-Bundle before the slash")
    version: str = Field(description="The part of the header X-Bundle after the slash")


class HeadDescription(BaseModel):
    """A head and how it is served."""

    name: str = Field(description="The last part of its route")
    task: TaskName = Field(description="The first part of its route")
    route: str = Field(description="The path of the route of its task")
    routes: list[str] = Field(description="All routes on which it answers, that of its task first")
    default: bool = Field(description="Whether the route without a name answers with this head")
    labels: list[str] = Field(description="The labels of its answers, in the order of its logits")
    problem_type: ProblemType = Field(description="Of classify and pair: what its logits mean, as in transformers")
    parameters: dict[str, Any] = Field(description="Defaults of the parameters, used where a request gives none")
    limits: Limits = Field(description="What one request may hold")
    metrics: dict[str, Any] = Field(description="What was measured when it was trained or exported")
    bundle: BundleName = Field(description="The bundle that the head comes from")
    precision: str = Field(description="Precision of the encoder: int8, fp16 or fp32")
    provider: str = Field(description="Where ONNX Runtime runs it: cpu or cuda")
    sha256: str = Field(description="Hash of bundle.json, which contains the hashes of all other files of the bundle")


class HeadList(BaseModel):
    """All heads."""

    heads: list[HeadDescription] = Field(description="In load order; the first of a task is its default")


class WorkerCount(BaseModel):
    """Workers of the service; each one that is ready answers, even if others are not."""

    ready: int = Field(description="Workers that are ready, the one that answers among them")
    of: int = Field(description="Workers when all of them work")


class Health(BaseModel):
    """The answer to a probe if all is well; a failed probe gets an error."""

    status: Literal["live", "ready"] = Field(description="What the probe asks for")
    workers: WorkerCount | None = Field(None, description="How many are ready, where the probe asks for that")


async def list_heads(request: Request) -> Response:
    """Answer with all heads."""
    service = service_of(request)
    heads = [describe(head, service.heads, service.settings) for head in service.heads.by_name.values()]
    return json_response({"heads": heads})


async def show_head(request: Request) -> Response:
    """Answer with one head."""
    service = service_of(request)
    head = service.heads.get(request.path_params["head"])
    return json_response(describe(head, service.heads, service.settings))


async def live(request: Request) -> Response:
    """Answer whether the process is alive."""
    require_none(service_of(request).engine.troubles())
    return json_response({"status": "live"})


async def ready(request: Request) -> Response:
    """Answer whether this worker should get requests."""
    service = service_of(request)
    require_none(service.obstacles())
    workers = {"ready": await service.metrics.ready_workers(), "of": service.settings.worker_count}
    return json_response({"status": "ready", "workers": workers})


async def metrics(request: Request) -> Response:
    """Answer with the figures for Prometheus."""
    page, media_type = await service_of(request).metrics.page(request.headers.get("accept", ""))
    return Response(page, media_type=media_type)


def routes(settings: Settings) -> list[BareRoute]:
    """Return all documented routes; the most used ones come first, as they are matched in order."""
    return [
        *(task_route(route, f"/{route}{head}", settings) for route in ASKED for head in ("", "/{head}")),
        *rerank_routes(settings),
        *explain_routes(settings),
        several_route(settings),
        *guard_routes(),
        *v2_routes(),
        *v1_routes(),
        *repository_routes(),
        BareRoute("/heads", list_heads, summary="List what is served", response_model=HeadList),
        BareRoute("/heads/{head}", show_head, summary="Describe a head", response_model=HeadDescription),
        BareRoute("/health/live", live, summary="Is the process alive?", response_model=Health, refused=(503,)),
        BareRoute("/health/ready", ready, summary="Should it get requests?", response_model=Health, refused=(503,)),
        BareRoute("/metrics", metrics, summary="Figures for Prometheus", response_class=Response, refused=(401, 403)),
    ]


def add_routes(app: FastAPI, settings: Settings) -> None:
    """Add all routes to an app whose state holds its service."""
    app.router.routes += [*routes(settings), *pages.router.routes]
