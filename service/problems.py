"""Maps what was raised to an answer: one place for all routes."""

import difflib

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from models.errors import InputError
from models.tasks import TASKS
from service.errors import MEDIA_TYPE, FieldError, MethodNotAllowed, NotFound, ServiceError, Unprocessable, problem
from service.gate import trace_of
from service.lifecycle import Service

REJECTIONS = (401, 413, 429, 503)
"""Statuses of requests on which nothing was spent, which the metric of rejections counts by code."""


async def answer_service_error(request: Request, error: Exception) -> Response:
    """Answer with the status of the error."""
    assert isinstance(error, ServiceError)
    return _answer(request, error)


async def answer_input_error(request: Request, error: Exception) -> Response:
    """Answer 422, naming the field."""
    assert isinstance(error, InputError)
    return _answer(request, Unprocessable([FieldError(error.field, error.message)]))


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: 404 and 405."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        sentence = f"{path} does not take {request.method}; send {(error.headers or {}).get('Allow', 'another method')}"
        return _answer(request, MethodNotAllowed(sentence, headers=error.headers))
    return _answer(request, NotFound(f"there is no {path}; {_nearest_route(request, path)}"))


def _answer(request: Request, error: ServiceError) -> Response:
    service: Service = request.app.state.service
    trace = trace_of(request.scope)
    trace.log["error"] = error.code
    if error.status in REJECTIONS:
        service.metrics.rejected.labels(error.code).inc()
    return Response(problem(error, trace.request_id), error.status, error.headers, MEDIA_TYPE)


def _nearest_route(request: Request, path: str) -> str:
    known = [route.path for route in request.app.routes if isinstance(route, Route) and "{" not in route.path]
    known += [f"/{task}" for task in TASKS]
    nearest = difflib.get_close_matches(path, known, n=1)
    return f"did you mean {nearest[0]}?" if nearest else "GET /docs lists what there is"
