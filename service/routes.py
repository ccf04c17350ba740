"""The routes of FastAPI: heads, health, metrics; the tasks' are in service/dispatch.py."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from models.task import TaskName
from service import pages, repository
from service.errors import Unavailable
from service.heads import describe
from service.lifecycle import Service
from service.openapi import problem_response, task_paths

router = APIRouter()


class Limits(BaseModel):
    """What one request may hold."""

    max_length: int
    """Tokens of a row, special ones included."""
    max_characters: int
    max_items: int


class BundleName(BaseModel):
    name: str
    version: str


class HeadDescription(BaseModel):
    """What is served under a name."""

    name: str
    task: TaskName
    route: str
    default: bool
    """Whether the route without a name answers with this head."""
    labels: list[str]
    parameters: dict[str, Any]
    """What holds where a request does not say otherwise."""
    limits: Limits
    metrics: dict[str, Any]
    bundle: BundleName
    precision: str
    provider: str
    sha256: str
    """Of bundle.json, which holds the hashes of all other files of the bundle."""


class HeadList(BaseModel):
    heads: list[HeadDescription]


class Status(BaseModel):
    status: str


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get(
    "/heads",
    summary="List what is served",
    tags=["heads"],
    response_model=HeadList,
    responses={503: problem_response("Loading")},
)
async def list_heads(request: Request) -> Any:
    service = _service(request)
    return {"heads": [describe(head, service.heads, service.settings) for head in service.heads.by_name.values()]}


@router.get(
    "/heads/{head}",
    summary="Describe a head",
    tags=["heads"],
    response_model=HeadDescription,
    responses={404: problem_response("No such head"), 503: problem_response("Loading")},
)
async def show_head(request: Request, head: str) -> Any:
    service = _service(request)
    return describe(service.heads.get(head), service.heads, service.settings)


@router.get(
    "/health/live",
    summary="Is the process alive?",
    tags=["health"],
    responses={503: problem_response("A lane died or hangs")},
)
async def live(request: Request) -> Status:
    troubles = _service(request).engine.troubles()
    if troubles:
        raise Unavailable("; ".join(troubles))
    return Status(status="live")


@router.get(
    "/health/ready",
    summary="Should it get requests?",
    tags=["health"],
    responses={503: problem_response("Loading or draining")},
)
async def ready(request: Request) -> Status:
    service = _service(request)
    obstacles = service.obstacles()
    if obstacles:
        raise Unavailable("; ".join(obstacles))
    workers = service.settings.workers
    if workers > 1 and (others := service.metrics.ready_workers()) < workers:
        raise Unavailable(f"loading: {others} of {workers} workers are ready")
    return Status(status="ready")


@router.get("/metrics", summary="Figures for Prometheus", tags=["health"], response_class=Response)
async def metrics(request: Request) -> Response:
    return Response(_service(request).metrics.expose(), media_type=CONTENT_TYPE_LATEST)


def add_routes(app: FastAPI) -> None:
    """Add all but the tasks' (service/dispatch.py) to an app that has its service in its state."""
    app.include_router(router)
    app.include_router(pages.router)
    app.include_router(repository.router)


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document: what FastAPI knows, and the task routes. It takes long, so it is made once."""
    if app.openapi_schema:
        return app.openapi_schema
    service: Service = app.state.service
    paths, schemas = task_paths(service.settings)
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    whole["paths"] = paths | whole["paths"]
    whole["components"]["schemas"] |= schemas
    if service.settings.api_key:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    app.openapi_schema = whole
    return whole
