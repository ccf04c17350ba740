"""The base of tasks: a task turns an input into rows for the encoder, and the logits of the head into an answer.

Evaluation and the service use the same code, so the measured answers are the served ones.
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
from models.input_errors import expected, explain
from models.row import Encoded, Source
from models.tokenizer import Tokenizer

TaskName = Literal["classify", "pair", "fill-mask", "tag", "qa"]
"""The names of tasks: their routes, and the `task` of heads in bundle.json."""

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
"""The meaning of a classifier's logits, with the names of transformers: labels that compete, labels that are each true
or false, or numbers."""
Function = Literal["softmax", "sigmoid", "none"]
"""How logits become scores."""

MAX_LOGITS = 1 << 26
"""Maximum logits that are kept at a time, or that one input may have (256 MiB). A mask has one for each token of the
vocabulary: 512 masks make 16 million with BERT."""

Logits = NDArray[np.float32]
Scores = NDArray[np.float64]


class Trained(BaseModel):
    """The rows that a head was trained on; the service should send it similar rows. None means unknown."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_length: int | None = Field(default=None, ge=3)
    """Maximum tokens of a training row, special ones included."""
    sentences: Literal["one", "several"] | None = None
    """Number of sentences in a training row (tag only)."""


@dataclass(frozen=True)
class HeadSpec:
    """The specification of a head: everything except its weights."""

    task: TaskName
    labels: list[str]
    """Meaning of each logit; empty for fill-mask (the vocabulary) and qa (start, end)."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters with another default for this head, such as {"handle_impossible_answer": true}."""
    temperature: float = 1.0
    """Divides the logits before they become scores (Guo et al., 2017); fitted on validation data."""
    trained: Trained = Trained()
    problem_type: ProblemType = "single_label_classification"
    """Only used by classify and pair."""

    @property
    def function(self) -> Function:
        """Return how logits become scores, unless a request chooses another function."""
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
        """Return the number of logits per position."""
        return {"fill-mask": vocab_size, "qa": 2}.get(self.task, len(self.labels))


class Strict(BaseModel):
    """Base of inputs and parameters: unknown fields are errors, and types are not converted ("3" is not an integer).

    The docstring of a field is its description in the OpenAPI document.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @property
    def characters(self) -> int:
        """Number of characters in it that must be tokenized."""
        return 0


ANSWER = ConfigDict(extra="forbid", use_attribute_docstrings=True)
"""How pydantic reads the TypedDict of an answer; the docstring of a key is its description."""


Inputs = TypeVar("Inputs")
Parameters = TypeVar("Parameters", bound=Strict)
Answer = TypeVar("Answer")


class Task(ABC, Generic[Inputs, Parameters, Source, Answer]):
    """Encodes inputs and decodes answers for one head. It has no state, so threads may share it."""

    inputs: Any
    """Type of one input, for pydantic: `str`, a model of named texts, or a union."""
    parameters: type[Parameters]
    repeats: ClassVar[bool] = False
    """Whether an input is tokenized many times, which takes long even for a short text."""

    def __init__(self, tokenizer: Tokenizer, head: HeadSpec, max_length: int) -> None:
        """Raise BundleError for a head that does not fit this task."""
        self.tokenizer = tokenizer
        self.head = head
        self.max_length = max_length
        self._check_head()

    @classmethod
    def answer_type(cls) -> Any:
        """Return the type of the answer to one input, for pydantic."""
        return get_type_hints(cls.decode)["return"]

    @property
    def route(self) -> str:
        """Name of the task in URLs and error messages."""
        return self.head.task

    def is_list(self, inputs: object, parameters: Parameters) -> bool:
        """Whether `inputs` of a request are a list of inputs (answered by a list); otherwise they are one input."""
        return isinstance(inputs, list)

    def parse_parameters(self, given: Mapping[str, Any]) -> Parameters:
        """Combine `given`, the head's defaults and the task's defaults, in this order of precedence.

        Raises InputError, which names the wrong parameter.
        """
        try:
            return self.parameters.model_validate({**self.head.defaults, **given})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise parameter_error(first, self.route, self.parameters) from None

    @abstractmethod
    def encode(self, inputs: Inputs, parameters: Parameters) -> Encoded[Source]:
        """Encode an input as rows; raise InputError, which names the field and the limit.

        The field is relative to one input ("inputs.question"); if the input is in a list, the caller adds its index.
        """

    def answer_tokens(self, encoded: Encoded[Source], parameters: Parameters) -> int:
        """Estimate how many tokens of input text the answer repeats, since a short request can cause a huge answer."""
        return 0

    @abstractmethod
    def decode(self, encoded: Encoded[Source], logits: Logits, parameters: Parameters) -> Answer:
        """Turn logits [positions of all rows, labels] into the answer, ready for JSON."""

    def _check_head(self) -> None:
        try:
            self.parse_parameters({})
        except InputError as error:
            raise BundleError(f"the defaults of this {self.route} head are wrong: {error}") from None


def softmax(logits: Logits | Scores, temperature: float) -> Scores:
    """Return the softmax over the last axis, in float64, after dividing by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    scores: Scores = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Logits | Scores, temperature: float = 1.0) -> Scores:
    """Return the logistic function of each logit, in a form that cannot overflow."""
    scores: Scores = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64) / temperature))
    return scores


def parameter_error(error: ErrorDetails, route: str, parameters: type[Strict]) -> InputError:
    """Return the user's error for an error of pydantic in one parameter."""
    half = error["type"] == "string_unicode" and not error["loc"]  # the name itself contains a lone surrogate
    field = "parameters." + (ascii(error["input"])[1:-1] if half else _place(error["loc"]))
    if half or error["type"] == "extra_forbidden":
        known = ", ".join(parameters.model_fields)
        return InputError(field, f"is not a parameter of {route}; it takes {known}")
    if error["type"] == "missing":
        return InputError(field, f"is missing, but {route} needs it; pass it")
    if error["type"] in ("too_long", "too_short"):
        return InputError(field, explain(error, ""))
    return InputError(field, f"is {repr(error['input'])[:80]}, but {expected(error['msg'])}")


def _place(location: tuple[int | str, ...]) -> str:
    """Return a location as text, such as targets.3; the names of union members that pydantic adds are left out."""
    name, *rest = location
    return ".".join([str(name)[:80], *(str(part) for part in rest if isinstance(part, int))])
