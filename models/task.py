"""What a task is: an input becomes rows for the encoder, and the logits of the head become an answer.

Evaluation and the service both go through this code, so that what was measured is what is served.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from models.errors import BundleError, InputError
from models.row import Encoded, Source
from models.tokenizer import Tokenizer

TaskName = Literal["classify", "pair", "fill-mask", "tag", "qa"]
"""The tasks by their route, which is also the `task` of a head in bundle.json."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""What the logits of a classifier mean, in the names of transformers: labels that compete, labels that are each true or
not, or numbers."""
Function = Literal["softmax", "sigmoid", "none"]
"""How logits become scores."""

MAX_LOGITS = 1 << 26
"""Maximum logits that are kept at a time, or of one input (256 MiB). A mask makes one for each word of the vocabulary:
512 masks of BERT's are 16 million."""

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]


class Trained(BaseModel):
    """The rows that a head learned from, which it should meet in service too; None where that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_length: int | None = Field(default=None, ge=3)
    """Tokens at which rows were cut, special ones included."""
    sentences: Literal["one", "several"] | None = None
    """How many a row holds (tag)."""


@dataclass(frozen=True)
class HeadSpec:
    """What a head is beside its weights."""

    task: TaskName
    labels: list[str]
    """Meaning of each logit; empty for fill-mask (the vocabulary) and qa (start, end)."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters whose default is another for this head, such as {"handle_impossible_answer": true}."""
    temperature: float = 1.0
    """Divides the logits before they become scores (Guo et al., 2017); found on validation data."""
    trained: Trained = Trained()
    problem_type: ProblemType = "single_label_classification"
    """Of classify and pair."""

    @property
    def function(self) -> Function:
        """Return how logits become scores unless a request says otherwise."""
        chosen: Function | None = self.defaults.get("function_to_apply")
        return chosen or self.usual_function

    @property
    def usual_function(self) -> Function:
        """Return the function that the logits were trained for (transformers' TextClassificationPipeline)."""
        if self.problem_type == "regression":
            return "none"
        alone = self.problem_type == "multi_label_classification" or len(self.labels) == 1
        return "sigmoid" if alone else "softmax"

    def width(self, vocab_size: int) -> int:
        """Return the logits of a position."""
        return {"fill-mask": vocab_size, "qa": 2}.get(self.task, len(self.labels))


class Strict(BaseModel):
    """Base of inputs and parameters: nothing unknown, nothing converted ("3" is not an integer, nor is true).

    The docstring of a field is its description in the OpenAPI document.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @property
    def characters(self) -> int:
        """Length of all texts in it that must be tokenised."""
        return 0


ANSWER = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""How pydantic reads the TypedDict of an answer; the docstring of a key is its description."""


Inputs = TypeVar("Inputs")
Parameters = TypeVar("Parameters", bound=Strict)
Answer = TypeVar("Answer")


class Task(ABC, Generic[Inputs, Parameters, Source, Answer]):
    """One head's way from input to answer; without state, so that threads may share it."""

    inputs: Any
    """Type of one input, as pydantic reads it: `str`, a model of named texts, or a union."""
    parameters: type[Parameters]
    repeats: ClassVar[bool] = False
    """Whether an input is tokenised many times over, which takes long even for a short text."""

    def __init__(self, tokenizer: Tokenizer, head: HeadSpec, max_length: int) -> None:
        """Raise BundleError for a head that this task cannot ask."""
        self.tokenizer = tokenizer
        self.head = head
        self.max_length = max_length
        self._check_head()

    @classmethod
    def answer_type(cls) -> Any:
        """Return the type of the answer to one input, as pydantic reads it."""
        return get_type_hints(cls.decode)["return"]

    @property
    def route(self) -> str:
        """Name of the task in URLs and error messages."""
        return self.head.task

    def is_list(self, inputs: object, parameters: Parameters) -> bool:
        """Whether `inputs` of a request are a list of inputs, which a list answers; otherwise they are one input."""
        return isinstance(inputs, list)

    def parse_parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Lay `given` over the defaults of the head over those of the task; raise InputError naming the parameter."""
        try:
            return self.parameters.model_validate({**self.head.defaults, **given})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise parameter_error(first, self.route, self.parameters) from None

    @abstractmethod
    def encode(self, inputs: Inputs, parameters: Parameters) -> Encoded[Source]:
        """Cut an input into rows; raise InputError naming the field and the limit.

        A field is relative to one input ("inputs.question"); the caller that encodes a list knows the place in it.
        """

    def answer_tokens(self, encoded: Encoded[Source], parameters: Parameters) -> int:
        """Return about how many tokens of text the answer repeats: what a client can make large with few words."""
        return 0

    @abstractmethod
    def decode(self, encoded: Encoded[Source], logits: Logits, parameters: Parameters) -> Answer:
        """Turn logits [positions of all rows, in order; labels] into the answer, ready for JSON."""

    def _check_head(self) -> None:
        try:
            self.parse_parameters({})
        except InputError as error:
            raise BundleError(f"the defaults of this {self.route} head are wrong: {error}") from None


def softmax(logits: Logits | Scores, temperature: float) -> Scores:
    """Over the last axis."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    scores: Scores = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Logits | Scores, temperature: float = 1.0) -> Scores:
    """Return the logistic function of each logit, in the form that cannot overflow."""
    scores: Scores = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64) / temperature))
    return scores


def parameter_error(error: ErrorDetails, route: str, parameters: type[Strict]) -> InputError:
    """Return the error of a user for what pydantic found wrong with one parameter."""
    half = error["type"] == "string_unicode" and not error["loc"]  # of a character, in the name itself
    field = "parameters." + (ascii(error["input"])[1:-1] if half else _place(error["loc"]))
    if half or error["type"] == "extra_forbidden":
        known = ", ".join(parameters.model_fields)
        return InputError(field, f"is no parameter of {route}; it takes {known}")
    if error["type"] == "missing":
        return InputError(field, f"is missing, but {route} needs it; pass it")
    expected = error["msg"].removeprefix("Value error, ")
    return InputError(field, f"is {repr(error['input'])[:80]}, but {expected[:1].lower()}{expected[1:]}")


def _place(location: tuple[int | str, ...]) -> str:
    """Write where a parameter is wrong: targets.3; names of union members, which pydantic adds, are left out."""
    name, *rest = location
    return ".".join([str(name)[:80], *(str(part) for part in rest if isinstance(part, int))])
