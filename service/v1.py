"""KServe's protocol, version 1, which KServe uses by default if a manifest names no protocol.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol
"""

import re
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from models.task import Strict
from service.errors import renaming
from service.heads import Head
from service.inference import NESTED, Plan, json_response, start
from service.openapi import BareRoute, inference_route
from service.request_models import parse_json
from service.settings import Settings
from service.tensors import Parameters, View
from service.v2 import model_route, parse_call, tell_ready, wanted
from service.v2_models import ModelReady

PREDICT = "/v1/models/{model}:predict"
MODEL = "/v1/models/{model}"
NAMED = re.compile(r"^/v1/models/(?P<model>[^/]+)(?<!:predict)$")
"""Matches MODEL, but not PREDICT."""
REQUEST = {"instances": ["A gorgeous, witty film."]}
RESPONSE = {"predictions": [{"positive": 0.9807, "negative": 0.0193}]}


class PredictRequest(Strict):
    """Inputs for a head."""

    instances: list[Any]
    """A list of inputs, as in `inputs` on the task's own route."""
    parameters: Parameters = None


class PredictResponse(View):
    """Answers of a head."""

    predictions: list[Any]
    """Answers as on the task's own route to a list of inputs, but with {label: score} instead of a list of labels."""


async def predict(request: Request) -> Response:
    """Answer a request for predictions."""
    inference = start(request)
    _, head = await wanted(request, inference)
    with renaming(lambda field: field.replace("inputs", "instances", 1)):
        return await inference.respond(lambda body: _plan(head, body, inference.service.settings))


def _plan(head: Head, body: bytes, settings: Settings) -> Plan:
    asked = parse_json(body, PredictRequest)
    call = parse_call(head, asked.instances, asked.parameters, settings)
    return Plan(
        [call], lambda answers: json_response({"predictions": [_prediction(head, each) for each in answers[0]]})
    )


def _prediction(head: Head, answer: Any) -> Any:
    """Return labels in the format of KServe's own runtime, which NeMo Guardrails reads: {label: score}, best first."""
    if head.spec.task in NESTED:
        return {each["label"]: each["score"] for each in answer}
    return answer


def v1_routes() -> list[BareRoute]:
    """Return the routes below /v1."""
    summary = "Run a head by KServe's protocol, version 1"
    told = model_route(MODEL, "Does a model answer?", tell_ready, ModelReady)
    told.path_regex = NAMED  # otherwise GET on PREDICT would return 404, not 405
    return [
        inference_route(
            PREDICT, predict, (REQUEST, RESPONSE), body=PredictRequest, summary=summary, response_model=PredictResponse
        ),
        told,
    ]
