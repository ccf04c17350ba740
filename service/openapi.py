"""The OpenAPI document, and the routes that it describes.

FastAPI generates the document, from the models that also validate requests. But FastAPI's own handling of a request
costs more than preparing a short text, so each route handles requests itself.
"""

import json
import re
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from inspect import Parameter, Signature
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.error_examples import choices, error_example
from service.errors import DETECTOR, EXAMPLES, MEDIA_TYPE, media_type, problem
from service.heads import Snapshot
from service.settings import Settings

Handler = Callable[[Request], Awaitable[Response]]

EMPTY = Snapshot([])
"""The heads while bundles load: none."""
TEMPLATE = "#/components/schemas/{model}"
READ = (401, 403, 503)
"""Error statuses of routes that only report something; 404 is added if the path contains a name."""
SPENT = (400, 401, 403, 404, 408, 413, 415, 422, 429, 500, 503, 504)
"""Error statuses of inference routes."""
HEADERS = {
    "Server-Timing": "Milliseconds in tokenize, queue, encode, decode",
    "X-Bundle": "Name and version of the bundle that answered",
    "X-Truncated": "Tokens that were cut; absent if none were",
    "X-Request-Id": "The client's, or a new one",
}
DEADLINE = {
    "name": "X-Deadline-Ms",
    "in": "header",
    "description": "Milliseconds after which the client no longer needs the answer",
    "schema": {"type": "integer", "minimum": 1, "exclusiveMaximum": 10**12},
}
PIN = {
    "name": "X-Bundle",
    "in": "header",
    "description": "The bundle that should answer, as NAME/VERSION; by default those that are served",
    "schema": {"type": "string"},
}
PLACES = {
    **dict.fromkeys(("head", "model"), "The name of a head; GET /heads lists them"),
    "version": "The version of its bundle",
    "name": "The name of a bundle, or of one of its heads",
}
"""Descriptions of path parameters."""


class ProblemError(BaseModel):
    """One error."""

    field: str | None = Field(None, description="What is wrong: a field of the body, or a header")
    message: str = Field(description="The value, what was expected, and the remedy")


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(description="A stable identifier of the kind of problem, for programs")
    title: str = Field(description="The kind of problem, for people")
    status: int = Field(description="The HTTP status")
    detail: str = Field(description="What is wrong with this request, and the remedy")
    request_id: str = Field(description="The id under which the log has this request")
    errors: list[ProblemError] = Field(description="Every error that was found")


class Failure(Problem):
    """Problem details, with the message also in the field that clients of KServe and Triton read."""

    error: str = Field(description="The same as `detail`")


class BareRoute(APIRoute):
    """A route that FastAPI only documents; `handler` handles its requests without FastAPI.

    `body` is the model of the request body, and `refused` are the error statuses; the rest are FastAPI's options.
    """

    def __init__(
        self, path: str, handler: Handler, *, body: Any = None, refused: tuple[int, ...] = READ, **options: Any
    ) -> None:
        words, methods = re.findall(r"\w+", path), options.setdefault("methods", ["GET"])
        options["operation_id"] = "_".join(words if "POST" in methods else ["get", *words])
        options["responses"] = options.get("responses", {}) | _problems(refused, path)
        super().__init__(path, _endpoint(body), tags=[_group(path, methods)], **options)

        async def plain(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive, send)
            response = await handler(request)
            await response(scope, receive, send)

        self.app = plain


def _group(path: str, methods: Collection[str]) -> str:
    """Return the heading under which /docs lists a route."""
    if "repository" in path:
        return "Bundles"
    if path.startswith("/v2"):
        return "Open Inference Protocol"
    if path.startswith(("/v1", "/api", "/beta")):
        return "Other clients"
    return "Tasks" if "POST" in methods else "What is served"


def _endpoint(body: Any) -> Callable[..., Any]:
    """Return a function whose signature tells FastAPI the type of a route's body."""

    async def endpoint() -> None: ...

    given = [Parameter("body", Parameter.KEYWORD_ONLY, annotation=body)] if body else []
    endpoint.__signature__ = Signature(given)  # type: ignore[attr-defined]
    return endpoint


def inference_route(
    path: str, handler: Handler, examples: tuple[Any, Any], other: Mapping[str, Any] | None = None, **options: Any
) -> BareRoute:
    """Return an inference route. `examples` are an example body and its answer.

    `other` maps further media types of body and answer to their OpenAPI content.
    """
    asked, answered = ({"application/json": {"example": each}, **(other or {})} for each in examples)
    headers = {name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()}
    return BareRoute(
        path,
        handler,
        methods=["POST"],
        refused=SPENT,
        responses={200: {"headers": headers, "content": answered}},
        openapi_extra={"parameters": [DEADLINE, PIN], "requestBody": {"content": asked}},
        **options,
    )


class DetectorFailure(Problem):
    """Problem details, with the fields that the orchestrator of FMS Guardrails reads."""

    code: int = Field(description="The same as `status`")
    message: str = Field(description="The same as `detail`")


def _problems(statuses: Collection[int], path: str) -> dict[int | str, dict[str, Any]]:
    """Return the error entries for `responses` of a path; `document` adds their examples."""
    media = media_type(path)
    model = "DetectorFailure" if path == DETECTOR else "Problem" if media == MEDIA_TYPE else "Failure"
    schema = {"$ref": TEMPLATE.format(model=model)}
    return {
        error.status: {"description": type(error).__doc__, "content": {media: {"schema": schema}}}
        for error in EXAMPLES
        if error.status in statuses or (error.status == 404 and "{" in path)
    }


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document. It is cached until the heads change, because it lists them as values of `{head}`."""
    service = app.state.service
    heads = service.served
    if app.openapi_schema and app.state.documented is heads:
        return app.openapi_schema
    whole = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    for path, operations in whole["paths"].items():
        for method, operation in operations.items():
            operation["parameters"] = [*_in_path(path, heads or EMPTY), *operation.get("parameters", ())]
            _add_examples(operation["responses"], path, method, heads or EMPTY, service.settings)
    models: Any = [(model, "serialization") for model in (Problem, Failure, DetectorFailure)]
    _, errors = models_json_schema(models, ref_template=TEMPLATE)
    whole["components"]["schemas"] |= errors["$defs"]
    if service.settings.asks_for_key:
        whole["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        whole["security"] = [{"key": []}]
    app.openapi_schema, app.state.documented = whole, heads
    return whole


def _add_examples(responses: dict[str, Any], path: str, method: str, heads: Snapshot, settings: Settings) -> None:
    """Add to each error an example, and as x-request how a request that causes it differs from the route's example."""
    for status, response in responses.items():
        if status == "200":
            continue
        found = error_example(int(status), path, method, heads, settings)
        (content,) = response["content"].values()
        content["example"] = json.loads(problem(found.error, "7d41f0", path))
        if found.sent is not None:
            response["x-request"] = found.sent


def _in_path(path: str, heads: Snapshot) -> Iterator[dict[str, Any]]:
    """Yield the parameters of a path; the allowed values are the served names, except on routes that load bundles."""
    known = choices(path, heads)
    for name in re.findall(r"{(\w+)}", path):
        listed = {"enum": known[name]} if known[name] and name != "name" else {}
        found = {"name": name, "in": "path", "required": True, "description": PLACES[name]}
        yield {**found, "schema": {"type": "string"} | listed, **({"example": known[name][0]} if known[name] else {})}
