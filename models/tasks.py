"""The five tasks by name, and all routes that ask their heads."""

from typing import Any

from models.classification import Classify, Pair
from models.fill_mask import FillMask
from models.qa import QuestionAnswering
from models.tagging import Tag
from models.task import HeadSpec, Task, TaskName

__all__ = ["ROUTES", "TASKS", "HeadSpec", "Task", "TaskName"]

# Any: which input, parameters and answer belong together is known only inside a task.
AnyTask = Task[Any, Any, Any, Any]

TASKS: dict[TaskName, type[AnyTask]] = {
    "classify": Classify,
    "pair": Pair,
    "fill-mask": FillMask,
    "tag": Tag,
    "qa": QuestionAnswering,
}
ROUTES: dict[str, type[AnyTask]] = dict(TASKS.items())
