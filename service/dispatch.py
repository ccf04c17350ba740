"""The routes that answers come from, ahead of FastAPI's: POST /{task} and /{task}/{head}.

All that counts comes this way, and FastAPI's own middleware and router would only add to what it costs.
"""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from models.errors import InputError
from models.task import TaskName
from models.tasks import TASKS
from service.errors import ServiceError
from service.inference import infer
from service.problems import answer_http_error, answer_input_error, answer_service_error


class Dispatch:
    """The middleware around FastAPI's app; whatever is no task's goes on to that."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = task_route(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            if request.method != "POST":
                raise HTTPException(405, headers={"Allow": "POST"})
            response = await infer(request, *found)
        except HTTPException as error:
            response = await answer_http_error(request, error)
        except ServiceError as error:
            response = await answer_service_error(request, error)
        except InputError as error:
            response = await answer_input_error(request, error)
        await response(scope, receive, send)


def task_route(path: str) -> tuple[TaskName, str | None] | None:
    """Return task and head, None for the task's default, of a path that is a task's."""
    for task in TASKS:
        if path == f"/{task}":
            return task, None
        head = path.removeprefix(f"/{task}/")
        if head and head != path and "/" not in head:
            return task, head
    return None
