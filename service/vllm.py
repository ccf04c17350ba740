"""vLLM's /classify, which shares its path with the task: requests have `input` instead of `inputs`.

Guards use it, so an attacker must not be able to hide an attack in a long text: it is read in windows, and the answer
is that of the least safe window.

https://docs.vllm.ai/en/latest/models/pooling_models
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from pydantic import BaseModel, Field
from starlette.responses import Response

from models.classification import scores_of
from models.task_registry import AnyTask
from service.guards import GUARDED, Tolerant
from service.heads import Head, Heads
from service.inference import Inference, Plan, call_of, json_response
from service.request_models import parse_json

PATH = "/classify"


class ClassificationRequest(Tolerant):
    """Texts to classify, in vLLM's format."""

    model: str | None = None
    """The name of a head; by default the default head."""
    input: str | list[str]
    """A text, or a list of texts."""
    truncate_prompt_tokens: int | None = Field(None, ge=-1)
    """Maximum tokens of a text, which is cut on the right; -1 means the model's limit. By default texts are not cut."""
    use_activation: bool | None = None
    """Whether logits become probabilities."""


class Classification(BaseModel):
    """The answer to one text."""

    index: int = Field(description="The place of the text in the request, from 0")
    label: str | None = Field(description="The most likely label")
    probs: list[float] = Field(description="The score of each label, in the order of the labels in GET /heads")
    num_classes: int = Field(description="Number of labels")


class ClassificationResponse(BaseModel):
    """The answer of vLLM's /classify. A text with several windows gets the answer of the least safe one."""

    id: str = Field(description="The request's id")
    object: Literal["list"] = Field(description="Always list")
    created: int = Field(description="Seconds since 1970")
    model: str = Field(description="The name of the head")
    data: list[Classification] = Field(description="An answer for each text")
    usage: dict[str, Any] = Field(description="The tokens of the request")


class LeastSafe:
    """A classifier that answers for the least safe window of a text, so that harmless windows cannot outvote it."""

    def __init__(self, task: AnyTask, safe: Sequence[str]) -> None:
        self._task = task
        self._safe = [number for number, label in enumerate(task.head.labels) if label.lower() in safe]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def decode(self, encoded: Any, logits: Any, parameters: Any) -> Any:
        """Decode the least safe window; if the head has no safe labels, decode all windows as usual."""
        if self._safe and len(logits) > 1:
            competes = self._task.head.usual_function == "softmax"
            worst = scores_of(self._task.head, logits, "softmax" if competes else "sigmoid")[:, self._safe]
            worst = worst.sum(axis=1).argmin()
            logits = logits[worst : worst + 1]
        return self._task.decode(encoded, logits, parameters)


def plan(body: bytes, heads: Heads, inference: Inference) -> Plan:
    """Return the call of vLLM's /classify."""
    settings, info = inference.service.settings, inference.info
    asked = parse_json(body, ClassificationRequest)
    head = heads.find("classify", asked.model)
    inference.name(head)
    cut: dict[str, Any] = {} if asked.truncate_prompt_tokens is None else {"truncation": "right"}
    if (asked.truncate_prompt_tokens or -1) > 0:
        cut["max_length"] = asked.truncate_prompt_tokens
    scores = {"function_to_apply": "none"} if asked.use_activation is False else {}
    parameters = head.task.parse_parameters(GUARDED | cut | scores | {"threshold": None, "top_k": None})
    least_safe = cast(AnyTask, LeastSafe(head.task, settings.safe_labels))
    call = replace(call_of(head, "classify", asked.input, parameters, settings), task=least_safe)

    def respond(answers: list[list[Any]]) -> Response:
        tokens = info.log["tokens"]
        about = {"id": f"classify-{info.request_id}", "object": "list", "created": int(time.time())}
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0, "prompt_tokens_details": None}
        data = [_classification(head, index, answer) for index, answer in enumerate(answers[0])]
        return json_response(about | {"model": head.name, "data": data, "usage": usage})

    return Plan([call], respond)


def rename(field: str) -> str:
    """Return the name of a field of /classify in vLLM's requests."""
    return field.replace("inputs", "input", 1).replace("parameters.max_length", "truncate_prompt_tokens")


def _classification(head: Head, index: int, answer: list[dict[str, Any]]) -> dict[str, Any]:
    scores = {each["label"]: each["score"] for each in answer}
    labels = head.spec.labels
    return {
        "index": index,
        "label": answer[0]["label"],
        "probs": [scores[label] for label in labels],
        "num_classes": len(labels),
    }
