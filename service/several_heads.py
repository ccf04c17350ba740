"""POST /heads: several heads answer the same inputs, in one pass of the encoder that they share."""

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import Field, create_model
from starlette.requests import Request
from starlette.responses import Response

from models.classification import PairInput
from models.errors import InputError
from models.qa import QuestionInput
from models.task_registry import RouteName
from service.errors import FieldError, Unprocessable
from service.heads import Head, Heads
from service.inference import Call, Plan, call_of, json_response, start
from service.openapi import BareRoute, inference_route
from service.request_models import TaskRequest, parse_request, request_model
from service.settings import Settings

MAX_HEADS = 32
"""Maximum heads in one request."""
EXAMPLE = {
    "inputs": "Clara loves Berkeley.",
    "heads": ["sentiment", "ner"],
    "parameters": {"ner": {"aggregation_strategy": "simple"}},
}
ANSWER = {
    "sentiment": [[{"label": "positive", "score": 0.9752}, {"label": "negative", "score": 0.0248}]],
    "ner": [
        {"entity_group": "PER", "score": 0.9998, "word": "Clara", "start": 0, "end": 5},
        {"entity_group": "LOC", "score": 0.9988, "word": "Berkeley", "start": 12, "end": 20},
    ],
}
Names = Annotated[
    list[str],
    Field(min_length=1, max_length=MAX_HEADS, description="Names of heads that take such inputs; see GET /heads"),
]
Input = str | PairInput | QuestionInput


class SeveralRequest(TaskRequest):
    """One input, or a list of inputs, for several heads."""

    inputs: Annotated[Input | list[Input], Field(description="What each of the heads takes on its own route")]
    heads: Names
    parameters: Annotated[
        dict[str, dict[str, Any]] | None, Field(description="Parameters of each head, by its name")
    ] = None


class Asked(TaskRequest):
    """Read first: the names of the heads, which determine the type of the inputs."""

    heads: Names
    parameters: dict[str, dict[str, Any]] | None = None


@cache
def model_for(route: RouteName, max_items: int, max_characters: int) -> type[TaskRequest]:
    """Return the model of the body as the heads of one route read it."""
    ignored: Any = (Any, None)
    base = request_model(route, max_items, max_characters)
    return create_model(f"Several{base.__name__}", __base__=base, heads=ignored, parameters=ignored)


def plan_several(body: bytes, heads: Heads, settings: Settings) -> Plan:
    """Return a plan with one call per head; raise an error if the inputs are wrong for any of them."""
    asked = parse_request(body, "classify", Asked)
    assert isinstance(asked, Asked)
    chosen = {name: heads.get(name) for name in asked.heads}
    given = asked.parameters or {}
    if strangers := given.keys() - chosen.keys():
        names = ", ".join(chosen)
        raise InputError(f"parameters.{min(strangers)[:80]}", f"is not a head of this request; its heads are {names}")
    inputs: dict[RouteName, Any] = {}
    for head in chosen.values():
        if head.spec.task not in inputs:
            inputs[head.spec.task] = _inputs(head, body, settings)
    calls = [_call(head, inputs[head.spec.task], given.get(name, {}), settings) for name, head in chosen.items()]
    return Plan(
        calls,
        lambda answers: json_response(
            {call.head.name: call.shaped(each) for call, each in zip(calls, answers, strict=True)}
        ),
    )


def _inputs(head: Head, body: bytes, settings: Settings) -> Any:
    """Return the inputs as all heads of the same task read them."""
    model = model_for(head.spec.task, settings.max_items, settings.max_characters)
    try:
        return parse_request(body, head.spec.task, model).inputs
    except Unprocessable as error:
        raise Unprocessable([FieldError(e.field, f"{e.message} (head {head.name!r})") for e in error.errors]) from None


def _call(head: Head, inputs: Any, given: Mapping[str, Any], settings: Settings) -> Call:
    try:
        parameters = head.task.parse_parameters(given)
    except InputError as error:
        raise InputError(error.field.replace("parameters", f"parameters.{head.name}", 1), error.message) from None
    return call_of(head, head.spec.task, inputs, parameters, settings)


def several_route(settings: Settings) -> BareRoute:
    """Return POST /heads."""

    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.heads()

        def plan(body: bytes) -> Plan:
            planned = plan_several(body, heads, settings)
            inference.info.log["head"] = ",".join(call.head.name for call in planned.calls)
            return planned

        return await inference.respond(plan)

    summary = "Ask several heads about the same inputs in one pass"
    return inference_route(
        "/heads", handler, (EXAMPLE, ANSWER), body=SeveralRequest, summary=summary, response_model=dict[str, Any]
    )
