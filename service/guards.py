"""Routes for clients that guard a language model: the orchestrator of FMS Guardrails, and LiteLLM.

An attacker must not be able to hide an attack in a long text. A long text is therefore read in windows, and each label
gets its highest score over all windows, unless the client asks for something else. The setting `safe_labels` lists the
labels that are harmless.

https://foundation-model-stack.github.io/fms-guardrails-orchestrator
https://docs.litellm.ai/docs/adding_provider/generic_guardrail_api
"""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from models.classification import MIN_ROW, Truncation
from models.errors import InputError
from models.redaction import Placeholders, redact
from models.task import Strict
from service.errors import DETECTOR, NotFound, renaming
from service.heads import Head, Heads
from service.inference import Call, Plan, call_of, json_response, start
from service.openapi import BareRoute, inference_route
from service.request_models import parse_json
from service.settings import Settings
from service.several_heads import MAX_HEADS
from service.size import MAX_ANSWERED

LITELLM = "/beta/litellm_basic_guardrail_api"
GUARDED = {"truncation": "windows", "window_scores": "maximum"}
"""Parameters with which a text is classified, unless the client gives others."""
DEFAULT_THRESHOLD = 0.5
DETECTION = {
    "start": 0,
    "end": 21,
    "text": "What a waste of time.",
    "detection": "negative",
    "detection_type": "negative",
    "score": 0.9741,
}
"""An example of a detection."""
STAND_IN = "."
"""The text that a head reads in place of a blank one; its answer is ignored."""


class Tolerant(Strict):
    """Base of requests that ignore unknown keys, because new versions of their clients add keys."""

    model_config = ConfigDict(extra="ignore")


class GuardParameters(Strict):
    """Which labels and scores count as a finding."""

    threshold: float | None = Field(None, ge=0, le=1)
    """Lower scores are ignored; by default the head's own threshold, or 0.5 for the labels of a text."""
    safe_labels: list[str] | None = None
    """Labels that mean that nothing was found; by default the setting safe_labels."""
    blocked_labels: list[str] | None = None
    """The only labels that count; by default all labels except the safe ones."""
    truncation: Truncation | bool | None = None
    """What to do with a text that is too long, as on /classify, but "windows" by default."""
    max_length: int | None = Field(None, ge=MIN_ROW)
    """Maximum tokens of a row, as on /classify."""


def _call(head: Head, texts: Sequence[str], asked: GuardParameters, settings: Settings) -> Call:
    given = asked.model_dump(exclude_none=True, exclude={"safe_labels", "blocked_labels", "heads"})
    if head.spec.task == "classify":
        given = GUARDED | {"threshold": _threshold(head)} | given
    else:  # a tagger always slides windows
        given = {name: given[name] for name in given.keys() & {"threshold"}} | {"aggregation_strategy": "simple"}
    _check_labels(head, asked)
    readable = [text if text.strip() else STAND_IN for text in texts]
    return call_of(head, head.spec.task, readable, head.task.parse_parameters(given), settings)


def _threshold(head: Head) -> Any:
    """Return the head's own threshold; labels without one get DEFAULT_THRESHOLD."""
    own = head.spec.defaults.get("threshold", DEFAULT_THRESHOLD)
    return dict.fromkeys(head.spec.labels, DEFAULT_THRESHOLD) | own if isinstance(own, dict) else own


def _check_labels(head: Head, asked: GuardParameters) -> None:
    known = head.spec.labels + [label[2:] for label in head.spec.labels if label[1:2] == "-"]
    if strangers := [label for label in asked.blocked_labels or [] if label not in known]:
        sentence = f"has {strangers[0][:80]!r}, but head {head.name!r} has {', '.join(head.spec.labels)[:500]}"
        raise InputError("parameters.blocked_labels", sentence)


def _found(answer: list[dict[str, Any]], text: str, asked: GuardParameters, settings: Settings) -> list[dict[str, Any]]:
    """Return those labels or spans of an answer that count as findings in a text."""
    safe = {label.lower() for label in (asked.safe_labels if asked.safe_labels is not None else settings.safe_labels)}
    blocked, found = asked.blocked_labels, []
    for each in answer if text.strip() else []:
        label = each.get("label") or each["entity_group"]
        if label.lower() not in safe if blocked is None else label in blocked:
            found.append({"start": 0, "end": len(text), "word": text} | each | {"label": label})
    return found


def _guard(heads: Heads, name: str | None) -> Head:
    """Return a head that tags, or that classifies with probabilities; raise NotFound for another one."""
    if name is None:
        head = heads.find("classify" if "classify" in heads.defaults else "tag", None)
    else:
        head = heads.get(name)
    if head.spec.task == "tag":
        return head
    if head.spec.function == "none":
        raise NotFound(f"head {head.name!r} gives numbers, not probabilities, so it is no guard", field="head")
    return heads.find("classify", head.name)


# ---- FMS Guardrails -------------------------------------------------------------------------------------------------


class DetectorRequest(Tolerant):
    """Texts for a detector to check."""

    contents: list[str] = Field(min_length=1)
    """The texts."""
    detector_params: GuardParameters | None = None
    """Which labels and scores count as a finding."""


class Detection(BaseModel):
    """A finding in a text: a label of the whole text, or an entity."""

    start: int = Field(description="Index of its first character in the text")
    end: int = Field(description="Index after its last character")
    text: str = Field(description="The characters between them")
    detection: str = Field(description="The label, or the type of the entity")
    detection_type: str = Field(description="The same")
    score: float = Field(description="The score")


async def detect(request: Request) -> Response:
    """Answer with what a head finds in each text."""
    inference = start(request)
    heads = await inference.heads()
    head = _guard(heads, request.headers.get("detector-id"))
    inference.name(head)
    with renaming(lambda field: field.replace("inputs", "contents").replace("parameters", "detector_params")):
        return await inference.respond(lambda body: _plan_detector(head, body, inference.service.settings))


def _plan_detector(head: Head, body: bytes, settings: Settings) -> Plan:
    request = parse_json(body, DetectorRequest)
    texts, asked = request.contents, request.detector_params or GuardParameters()
    if head.spec.task == "classify" and sum(map(len, texts)) * len(head.spec.labels) > MAX_ANSWERED:
        raise InputError("contents", f"times {len(head.spec.labels)} labels make a huge answer; send fewer texts")
    call = _call(head, texts, asked, settings)

    def respond(answers: list[list[Any]]) -> Response:
        pairs = zip(texts, answers[0], strict=True)
        return json_response([[_detection(each) for each in _found(one, text, asked, settings)] for text, one in pairs])

    return Plan([call], respond)


def _detection(found: dict[str, Any]) -> dict[str, Any]:
    same = {name: found[name] for name in ("start", "end", "score")}
    return same | {"text": found["word"], "detection": found["label"], "detection_type": found["label"]}


# ---- LiteLLM --------------------------------------------------------------------------------------------------------


class LiteLLMParameters(GuardParameters):
    """Which heads guard, and what counts as a finding. A classifier blocks the texts; a tagger hides their entities."""

    heads: list[str] | None = Field(None, min_length=1, max_length=MAX_HEADS)
    """Names of the heads; by default the default head of /classify."""


class GuardrailRequest(Tolerant):
    """Input or output of a language model. Only texts are read; images, tools and tool calls are ignored."""

    texts: list[str] | None = None
    """The texts, such as the messages of a conversation."""
    additional_provider_specific_params: LiteLLMParameters | None = None
    """Which heads guard, and what counts as a finding."""


class GuardrailAnswer(BaseModel):
    """What LiteLLM should do with the texts."""

    action: Literal["NONE", "BLOCKED", "GUARDRAIL_INTERVENED"] = Field(description="Pass, refuse, or replace the texts")
    blocked_reason: str = Field("", description="With BLOCKED: the head, the label, its score, and the text")
    texts: list[str] = Field([], description="With GUARDRAIL_INTERVENED: the texts with placeholders for entities")


async def guardrail(request: Request) -> Response:
    """Answer whether the texts may pass, are blocked, or pass with entities hidden."""
    inference = start(request)
    heads = await inference.heads()
    parameters = "additional_provider_specific_params"
    with renaming(lambda field: field.replace("inputs", "texts").replace("parameters", parameters)):
        return await inference.respond(lambda body: _plan_guardrail(heads, body, inference.service.settings))


def _plan_guardrail(heads: Heads, body: bytes, settings: Settings) -> Plan:
    request = parse_json(body, GuardrailRequest)
    texts, asked = request.texts or [""], request.additional_provider_specific_params or LiteLLMParameters()
    names = list(dict.fromkeys(asked.heads)) if asked.heads else [None]
    calls = [_call(_guard(heads, name), texts, asked, settings) for name in names]

    def respond(answers: list[list[Any]]) -> Response:
        spans: list[list[Any]] = [[] for _ in texts]
        for call, of_call in zip(calls, answers, strict=True):
            for number, (text, answer) in enumerate(zip(texts, of_call, strict=True)):
                found = _found(answer, text, asked, settings)
                if found and call.head.spec.task == "classify":
                    return json_response(_blocked(call.head, found[0], number))
                spans[number] += found
        return json_response(_redacted(texts, spans) if any(spans) else {"action": "NONE"})

    return Plan(calls, respond)


def _blocked(head: Head, found: dict[str, Any], number: int) -> dict[str, Any]:
    reason = f"{head.name} finds {found['label']} in texts[{number}], with a score of {found['score']:.2f}"
    return {"action": "BLOCKED", "blocked_reason": reason}


def _redacted(texts: list[str], spans: list[list[Any]]) -> dict[str, Any]:
    """Hide the entities of all texts; equal entities get the same placeholder in every text."""
    names = Placeholders("\n".join(texts))
    ordered = [sorted(each, key=lambda span: int(span["start"])) for each in spans]
    hidden = [redact(text, each, names)["text"] for text, each in zip(texts, ordered, strict=True)]
    return {"action": "GUARDRAIL_INTERVENED", "texts": hidden}


# ---- routes ---------------------------------------------------------------------------------------------------------


def guard_routes() -> list[BareRoute]:
    """Return the routes of guards, except vLLM's, which shares the path of the task."""
    texts = ["What a waste of time.", "How are you?"]
    parameters = {"threshold": 0.8, "blocked_labels": ["negative"]}
    detected = ({"contents": texts, "detector_params": parameters}, [[DETECTION], []])
    names = {"texts": ["Clara lives in Berkeley."], "additional_provider_specific_params": {"heads": ["ner"]}}
    hidden = {"action": "GUARDRAIL_INTERVENED", "texts": ["[PER_1] lives in [LOC_1]."]}
    return [
        inference_route(
            DETECTOR,
            detect,
            detected,
            body=DetectorRequest,
            summary="Find harm in texts, as a detector of FMS Guardrails; the header detector-id names a head",
            response_model=list[list[Detection]],
        ),
        inference_route(
            LITELLM,
            guardrail,
            (names, hidden),
            body=GuardrailRequest,
            summary="Guard a language model behind LiteLLM",
            response_model=GuardrailAnswer,
        ),
    ]
