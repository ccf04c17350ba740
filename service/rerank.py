"""POST /rerank: ranks texts for a query, with the JSON shapes of Text Embeddings Inference.

https://huggingface.github.io/text-embeddings-inference (POST /rerank)
"""

import re
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model
from starlette.requests import Request
from starlette.responses import Response

from models.classification import PairInput
from models.rerank import Rerank, obstacle, ranked
from models.task import Strict
from service.errors import FieldError, Unprocessable, renaming
from service.heads import Head, Heads
from service.inference import Plan, call_of, json_response, start
from service.openapi import BareRoute, inference_route
from service.request_models import parse_fields
from service.settings import Settings

TEXTS = ["Berlin is in Germany.", "Cats sleep all day."]
EXAMPLE = {"query": "Where is Berlin?", "texts": TEXTS}
ANSWER = [{"index": 0, "score": 0.9983}, {"index": 1, "score": 0.0002}]
WANTED = {"query": "a text", "texts": "a list of texts"}
PAIR = re.compile(r"inputs(\[\d+\])?(?:\.(text|text_pair))?")
"""Names of fields in errors of /pair."""


class RerankRequest(Strict):
    """A query, and the texts to rank."""

    query: str
    """What the texts should match; the first text of each pair."""
    texts: list[str]
    """The texts to rank; each is the second text of a pair."""
    raw_scores: bool = False
    """Whether scores are logits; otherwise they are between 0 and 1, by a sigmoid."""
    return_text: bool = False
    """Whether the answer repeats the texts."""
    truncate: bool | None = None
    """Whether a pair that is too long is cut; false refuses it with 422. By default it is handled as on /pair."""
    truncation_direction: Literal["right", "left", "Right", "Left"] | None = None
    """Where to cut; "right" if only `truncate` is set."""


class RankedText(BaseModel):
    """A text and its score."""

    index: int = Field(description="The place of the text in the request, from 0")
    score: float = Field(description="How well it fits the query")
    text: str | None = Field(None, description="The text, if `return_text` is true")


@cache
def request_model(max_items: int, max_characters: int) -> type[RerankRequest]:
    """Return the model of a body within the limits of the service."""
    described = str(RerankRequest.model_fields["texts"].description)
    texts: Any = Annotated[list[str], Field(min_length=1, max_length=max_items, description=described)]
    bounds: Any = {"str_max_length": max_characters}
    return create_model(
        "RerankRequest",
        __base__=RerankRequest,
        __doc__=RerankRequest.__doc__,
        __cls_kwargs__=bounds,
        texts=(texts, ...),
    )


def find_reranker(heads: Heads, name: str | None) -> Head:
    """Return a head that ranks; raise NotFound if there is none, Unprocessable if the named one cannot rank."""
    head = heads.by_name.get(name or "")
    if head is None or "rerank" in head.ways:
        return heads.find("rerank", name)
    others = ", ".join(each.name for each in heads.on("rerank"))
    known = f"these heads rank: {others}" if others else "no head that ranks is served"
    raise Unprocessable([FieldError("head", f"is {head.name!r}: {obstacle(head.spec)}; {known}")])


def plan_rerank(head: Head, asked: RerankRequest, settings: Settings) -> Plan:
    """Return a plan with one call for all texts, so that the engine schedules them as one job."""
    task = head.ways["rerank"]
    assert isinstance(task, Rerank)
    parameters = task.asked(asked.raw_scores, asked.truncate, asked.truncation_direction)
    pairs = [PairInput(text=asked.query, text_pair=text) for text in asked.texts]
    call = call_of(head, "rerank", pairs, parameters, settings)

    def respond(answers: list[list[Any]]) -> Response:
        scores = [answer[0]["score"] for answer in answers[0]]
        return json_response([_ranked(number, scores[number], asked) for number in ranked(scores)])

    return Plan([call], respond)


def _ranked(number: int, score: float, asked: RerankRequest) -> dict[str, Any]:
    return {"index": number, "score": score} | ({"text": asked.texts[number]} if asked.return_text else {})


def _as_sent(field: str) -> str:
    """Return the name on this route of a field of /pair: inputs[3].text_pair → texts[3]."""
    found = PAIR.fullmatch(field)
    if not found:
        return field
    return "query" if found[2] == "text" else f"texts{found[1] or ''}"


def rerank_routes(settings: Settings) -> list[BareRoute]:
    """Return POST /rerank and /rerank/{head}."""
    model = request_model(settings.max_items, settings.max_characters)

    async def handler(request: Request) -> Response:
        inference = start(request)
        heads = await inference.heads()
        head = find_reranker(heads, request.path_params.get("head"))
        inference.name(head)
        with renaming(_as_sent):
            return await inference.respond(lambda body: plan_rerank(head, parse_fields(body, model, WANTED), settings))

    summary = "Rank texts for a query, as Text Embeddings Inference does"
    return [
        inference_route(
            path,
            handler,
            (EXAMPLE, ANSWER),
            body=model,
            summary=summary + named,
            response_model=list[RankedText],
        )
        for path, named in (("/rerank", ""), ("/rerank/{head}", "; the path names the head"))
    ]
