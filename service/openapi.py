"""The OpenAPI document of the task routes, from the models that the tasks themselves validate with.

FastAPI documents what it validates; these routes read bytes and answer bytes, so their operations are written here.
"""

from typing import Annotated, Any, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from models.classification import ScoredLabel
from models.fill_mask import Choice
from models.qa import Answer
from models.tagging import Span, Token
from models.task import TaskName
from models.tasks import TASKS
from service.errors import MEDIA_TYPE
from service.settings import Settings

TEMPLATE = "#/components/schemas/{model}"

SUMMARIES: dict[TaskName, str] = {
    "classify": "Label a text",
    "pair": "Label how two texts relate",
    "fill-mask": "Fill each [MASK] of a text",
    "tag": "Find the entities of a text",
    "qa": "Answer a question from a text",
}
EXAMPLES: dict[TaskName, tuple[dict[str, Any], Any]] = {
    "classify": (
        {"inputs": "A gorgeous, witty film.", "parameters": {"top_k": 2}},
        [[{"label": "positive", "score": 0.9991}, {"label": "negative", "score": 0.0009}]],
    ),
    "pair": (
        {"inputs": {"text": "A man plays a guitar.", "text_pair": "Someone makes music."}},
        [[{"label": "entailment", "score": 0.95}, {"label": "neutral", "score": 0.05}]],
    ),
    "fill-mask": (
        {"inputs": "Paris is the [MASK] of France.", "parameters": {"top_k": 1}},
        [{"score": 0.99, "token": 3007, "token_str": "capital", "sequence": "paris is the capital of france."}],
    ),
    "tag": (
        {"inputs": "Clara lives in Berkeley.", "parameters": {"aggregation_strategy": "simple"}},
        [{"entity_group": "PER", "score": 0.99, "word": "Clara", "start": 0, "end": 5}],
    ),
    "qa": (
        {"inputs": {"question": "Where does Clara live?", "context": "Clara lives in Berkeley."}},
        {"score": 0.93, "start": 15, "end": 23, "answer": "Berkeley"},
    ),
}
HEADERS = {
    "Server-Timing": "Milliseconds in tokenize, queue, encode, decode",
    "X-Bundle": "Name and version of the bundle that answered",
    "X-Truncated": "Tokens that were cut; absent if none",
    "X-Request-Id": "The client's, or a new one",
}
PROBLEMS = {
    "400": "The body is no JSON document",
    "401": "No or a wrong key",
    "404": "No such head; the answer names those that exist",
    "408": "The body did not arrive in time",
    "413": "The body is larger than the limit",
    "415": "The body is not declared as JSON",
    "422": "An input or parameter is not acceptable; the answer names the field",
    "429": "As many tokens wait as may wait, or as can be answered before the deadline; see Retry-After",
    "500": "The model failed on this input",
    "503": "Loading or draining",
    "504": "The deadline passed; the answer says where",
}


class ProblemError(BaseModel):
    """One thing that is wrong."""

    field: str | None = Field(None, examples=["inputs[3].question"])
    message: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = Field(examples=["urn:bertheads:error:unacceptable-input"])
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[ProblemError]


def answer_types() -> dict[TaskName, Any]:
    """Return what each route may answer: to one input or several, one mask or several, the best answer or more."""
    labels, choices = _lists(_model(ScoredLabel)), _lists(_model(Choice))
    spans, tokens, answers = _lists(_model(Span)), _lists(_model(Token)), _lists(_model(Answer))
    return {
        "classify": labels[2],
        "pair": labels[2],
        "fill-mask": choices[1] | choices[2] | choices[3],
        "tag": spans[1] | tokens[1] | spans[2] | tokens[2],
        "qa": answers[0] | answers[1] | answers[2],
    }


def _lists(kind: Any) -> list[Any]:
    """Return a type, lists of it, lists of such, and so on."""
    nested = [kind]
    for _ in range(3):
        nested.append(list.__class_getitem__(nested[-1]))
    return nested


def _model(fields: Any) -> Any:
    """Return the model of a TypedDict, which pydantic itself reads from Python 3.12 on only."""
    types: dict[str, Any] = {name: (kind, ...) for name, kind in get_type_hints(fields).items()}
    return create_model(fields.__name__, __config__=ConfigDict(extra="forbid"), **types)


def request_model(task: TaskName, settings: Settings) -> type[BaseModel]:
    """Return the model of a task's request body."""
    one: Any = TASKS[task].inputs
    if one is str:
        one = Annotated[str, Field(min_length=1, max_length=settings.max_characters)]
    several: Any = Annotated[list[one], Field(min_length=1, max_length=settings.max_items)]
    fields: dict[str, Any] = {
        "inputs": (one | several, Field(description="One input, or a list of them, which is answered by a list")),
        "parameters": (TASKS[task].parameters | None, None),
    }
    config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLES[task][0]]})
    name = "".join(part.capitalize() for part in task.split("-"))
    return create_model(f"{name}Request", __config__=config, **fields)


def task_paths(settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return paths and schemas of all task routes."""
    paths: dict[str, Any] = {}
    answers = answer_types()
    schemas = _schemas(TypeAdapter(Problem), "")[1]
    for task in TASKS:
        request, defined = _schemas(TypeAdapter(request_model(task, settings)), "")
        answer, answered = _schemas(TypeAdapter(answers[task]), "serialization")
        name = request.pop("title")
        schemas |= defined | answered | {name: request}
        for path, parameters in ((f"/{task}", []), (f"/{task}/{{head}}", [_head_parameter(task)])):
            paths[path] = {
                "post": _operation(task, path, name, answer) | {"parameters": [*parameters, _deadline_parameter()]}
            }
    return paths, schemas | {"Problem": _schemas(TypeAdapter(Problem), "")[0]}


def _schemas(adapter: TypeAdapter[Any], mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    schema = adapter.json_schema(ref_template=TEMPLATE, mode="serialization" if mode else "validation")
    return schema, schema.pop("$defs", {})


def _operation(task: TaskName, path: str, request: str, answer: dict[str, Any]) -> dict[str, Any]:
    example, answered = EXAMPLES[task]
    named = path.endswith("}")
    return {
        "tags": ["tasks"],
        "summary": SUMMARIES[task] + (" with a head of your choice" if named else ""),
        "operationId": task.replace("-", "_") + ("_with_head" if named else ""),
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": TEMPLATE.format(model=request)}, "example": example}},
        },
        "responses": {
            "200": {
                "description": "The answer, in the shape of the Hugging Face Inference API",
                "headers": {
                    name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()
                },
                "content": {"application/json": {"schema": answer, "example": answered}},
            },
            **{status: problem_response(text) for status, text in PROBLEMS.items()},
        },
    }


def problem_response(description: str) -> dict[str, Any]:
    """Return the entry of an error in `responses`."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": {"$ref": TEMPLATE.format(model="Problem")}}}}


def _head_parameter(task: TaskName) -> dict[str, Any]:
    schema = {"type": "string"}
    return {
        "name": "head",
        "in": "path",
        "required": True,
        "schema": schema,
        "description": f"A head for {task}; see GET /heads",
    }


def _deadline_parameter() -> dict[str, Any]:
    return {
        "name": "X-Deadline-Ms",
        "in": "header",
        "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**12 - 1},
        "description": "Milliseconds after which the client needs no answer any more",
    }
