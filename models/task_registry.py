"""All tasks by name, and the routes on which a head answers: that of its own task, and others such as rerank."""

from typing import Any, Literal, get_args

from models.classification import Classify, Pair
from models.fill_mask import FillMask
from models.qa import QuestionAnswering
from models.rerank import Rerank
from models.rerank import obstacle as rerank_obstacle
from models.tagging import Tag
from models.task import HeadSpec, Task, TaskName
from models.zero_shot import ZeroShot
from models.zero_shot import obstacle as zero_shot_obstacle

__all__ = ["ROUTES", "TASKS", "HeadSpec", "RouteName", "Task", "TaskName", "best_answer", "routes_of"]

# Any: only the task itself knows the types of its inputs, parameters and answers.
AnyTask = Task[Any, Any, Any, Any]

RouteName = TaskName | Literal["zero-shot", "rerank", "explain"]
"""POST routes: the tasks that a bundle may declare; zero-shot and rerank, which use a pair head; and explain, which
explains a head's answer (models/occlusion.py)."""

ROUTES: dict[RouteName, type[AnyTask]] = {
    "classify": Classify,
    "pair": Pair,
    "fill-mask": FillMask,
    "tag": Tag,
    "qa": QuestionAnswering,
    "zero-shot": ZeroShot,
    "rerank": Rerank,
}

TASKS: dict[TaskName, type[AnyTask]] = {task: ROUTES[task] for task in get_args(TaskName)}


def routes_of(head: HeadSpec) -> list[RouteName]:
    """Return the routes on which a head answers; that of its own task comes first."""
    obstacles: dict[RouteName, str] = {"zero-shot": zero_shot_obstacle(head), "rerank": rerank_obstacle(head)}
    return [head.task, *(route for route, reason in obstacles.items() if not reason)]


def best_answer(answer: Any) -> dict[str, Any] | None:
    """Return the first label, token, span or text of the answer to one input; None if nothing was found."""
    best = answer["spans"] if isinstance(answer, dict) and "spans" in answer else answer  # a redacted text has spans
    while isinstance(best, list) and best:
        best = best[0]
    return best if isinstance(best, dict) else None
