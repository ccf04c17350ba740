"""POST /explain: explains a head's answer by the influence of each word of one input.

The input is computed once as a whole, and once without each of its words. All these texts are one job of the engine, so
admission counts their full cost.
"""

from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from models.classification import PairInput
from models.errors import InputError
from models.occlusion import EXPLAINED, Explanation, Occlusion, obstacle
from models.qa import QuestionInput
from models.task_registry import RouteName
from service.errors import FieldError, Unprocessable
from service.heads import Head, Heads
from service.inference import Inference, Plan, call_of, json_response, start
from service.openapi import BareRoute, inference_route
from service.request_models import TaskRequest, parse_request, request_model
from service.settings import Settings

EXAMPLE = {"inputs": "A gripping film."}
ANSWER = {
    "label": "positive",
    "score": 0.9805,
    "words": [
        {"field": "inputs", "word": "A", "start": 0, "end": 1, "influence": -0.0024},
        {"field": "inputs", "word": "gripping", "start": 2, "end": 10, "influence": 0.0287},
        {"field": "inputs", "word": "film", "start": 11, "end": 15, "influence": -0.0026},
        {"field": "inputs", "word": ".", "start": 15, "end": 16, "influence": 0.0001},
    ],
}


class ExplainRequest(TaskRequest):
    """One input of a head for classify, pair or qa."""

    inputs: Annotated[str | PairInput | QuestionInput, Field(description="One input, as on the head's own route")]
    parameters: Annotated[dict[str, Any] | None, Field(description="Parameters of the head's own route")] = None


class AnyInput(TaskRequest):
    """Read first if the path names no head: the form of the input decides which head answers."""


def find_explained(heads: Heads, name: str) -> Head:
    """Return a head by its name; raise NotFound if there is none, Unprocessable if it cannot explain its answers."""
    head = heads.get(name)
    if head.spec.task not in EXPLAINED:
        others = ", ".join(f"/explain/{each.name}" for each in heads.by_name.values() if each.spec.task in EXPLAINED)
        known = f"these routes explain: {others}" if others else "no head that explains is served"
        raise Unprocessable([FieldError("head", f"is {head.name!r}, which {obstacle(head.spec.task)}; {known}")])
    return head


def default_head(heads: Heads, body: bytes) -> Head:
    """Return the default head for the input's form: question, pair or text; raise NotFound if there is none."""
    inputs = parse_request(body, "classify", AnyInput).inputs
    names = inputs.keys() if isinstance(inputs, dict) else ()
    is_question = not QuestionInput.model_fields.keys().isdisjoint(names)
    route: RouteName = "qa" if is_question else "pair" if isinstance(inputs, dict) else "classify"
    return heads.find(route, None)


def plan_explain(head: Head, body: bytes, settings: Settings) -> Plan:
    """Return a plan with one call, for the input and its copies without one word each."""
    route = head.spec.task
    asked = parse_request(body, route, request_model(route, settings.max_items, settings.max_characters))
    if isinstance(asked.inputs, list):
        raise InputError("inputs", f"is a list of {len(asked.inputs)}, but one input is explained at a time; send one")
    call = call_of(head, route, asked.inputs, head.with_defaults(route, asked.parameters), settings)
    # Not the head's own route, so explanations are neither stored as samples nor computed by the shadow.
    call = replace(call, route="explain", task=Occlusion(head.task, settings.max_items))
    return Plan([call], lambda answers: json_response(answers[0][0]))


def explain_routes(settings: Settings) -> list[BareRoute]:
    """Return POST /explain and /explain/{head}."""

    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.heads()
        name = request.path_params.get("head")
        head = _named(inference, find_explained(heads, name)) if name is not None else None

        def plan(body: bytes) -> Plan:
            return plan_explain(head or _named(inference, default_head(heads, body)), body, settings)

        return await inference.respond(plan)

    summary = "Explain an answer by the influence of each word"
    paths = {
        "/explain": "; the default head of the route that takes such an input answers",
        "/explain/{head}": "; the path names the head",
    }
    return [
        inference_route(
            path,
            handler,
            (EXAMPLE, ANSWER),
            body=ExplainRequest,
            summary=summary + named,
            response_model=Explanation,
        )
        for path, named in paths.items()
    ]


def _named(inference: Inference, head: Head) -> Head:
    inference.name(head)
    return head
