"""The OpenAPI document: FastAPI's, of routes whose models are also what validates, and what is only known once serving.

FastAPI's own handling of a request costs more than answering a short text takes to prepare, so the routes that every
request takes are documented by it and handled without it.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from models.tasks import ROUTES
from service.errors import ServiceError, media_type, members
from service.heads import Heads

Handler = Callable[[Request], Awaitable[Response]]

TEMPLATE = "#/components/schemas/{model}"
SPENT = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Statuses of what a task route may refuse."""
Deadline = Annotated[
    int | None,
    Header(ge=1, lt=10**12, description="Milliseconds after which the client no longer needs the answer"),
]
UNUSED = ("HTTPValidationError", "ValidationError")
"""FastAPI's own errors, which no route answers."""
HEADERS = {
    "Server-Timing": "Milliseconds in tokenize, queue, encode, decode",
    "X-Bundle": "Name and version of the bundle that answered",
    "X-Truncated": "Tokens that were cut; absent if none were",
    "X-Request-Id": "The client's, or a new one",
}


class ProblemError(BaseModel):
    """One thing that is wrong."""

    field: str | None = Field(None, description="What is wrong: a field of the body, or a header")
    message: str = Field(description="The value, what was expected, and the remedy")


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="A name that never changes, for programs")
    title: str = Field(description="The kind of problem, for people")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What is wrong with this request, and the remedy")
    request_id: str = Field(description="The id under which the log has this request")
    errors: list[ProblemError] = Field(description="Each thing that is wrong")


class BareRoute(APIRoute):
    """A route that FastAPI documents by its endpoint's signature, and that `handler` answers by itself."""

    def __init__(self, path: str, endpoint: Callable[..., Any], handler: Handler, **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            response = await handler(request)
            await response(scope, receive, send)

        self.app = plain


def answered(example: Any) -> dict[int | str, dict[str, Any]]:
    """Return the entry of an answer with the headers of inference in `responses`."""
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()}
    return {
        200: {
            "description": "The answer, in the shape of the Hugging Face Inference API",
            "headers": headers,
            "content": {"application/json": {"example": example}},
        }
    }


class Failure(Problem):
    """Problem details, with the sentence where clients of KServe and Triton look for it."""

    error: str = Field(description="The same as `detail`")


class DetectorFailure(Problem):
    """Problem details, with what the orchestrator of FMS Guardrails looks for."""

    code: int = Field(description="The same as `status`")
    message: str = Field(description="The same as `detail`")


def problems(*statuses: int, path: str = "") -> dict[int | str, dict[str, Any]]:
    """Return the entries of errors in `responses` of a path, each with an example of its own."""
    errors = [error for error in ServiceError.__subclasses__() if error.status in statuses]
    return {error.status: _problem_response(error, path) for error in errors}


def _problem_response(error: type[ServiceError], path: str) -> dict[str, Any]:
    field, message = error.example
    example = members(error, message, [{"field": field, "message": message}], "7d41f0", path)
    model = "Failure" if "error" in example else "DetectorFailure" if "code" in example else "Problem"
    content = {"schema": {"$ref": TEMPLATE.format(model=model)}, "example": example}
    return {"description": error.__doc__, "content": {media_type(path): content}}


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, made once per set of heads: `{head}` is a choice of those that are served."""
    service = app.state.service
    heads = service.served
    if app.openapi_schema and app.state.documented is heads:
        return app.openapi_schema
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            _finish(operation, path, heads)
    schemas = whole["components"]["schemas"]
    for model in (Problem, Failure, DetectorFailure):
        schema = TypeAdapter(model).json_schema(ref_template=TEMPLATE)
        schemas |= schema.pop("$defs") | {model.__name__: schema}
    whole["components"]["schemas"] = {name: each for name, each in schemas.items() if name not in UNUSED}
    if service.settings.asks_for_key:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    app.openapi_schema, app.state.documented = whole, heads
    return whole


def _finish(operation: dict[str, Any], path: Any, heads: Heads | None) -> None:
    """Name the heads that are served, and leave out FastAPI's own error, which no route answers."""
    if UNUSED[0] in str(operation["responses"].get("422", "")):
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", []):
        if parameter["name"] in ("head", "model") and heads is not None:
            route = path.split("/")[1]
            names = [head.name for head in (heads.on(route) if route in ROUTES else heads.by_name.values())]
            parameter["schema"]["enum"] = names
        if parameter["name"] == "version" and heads is not None:
            versions = {head.bundle.manifest.version: None for head in heads.by_name.values()}
            parameter["schema"]["enum"] = list(versions)
