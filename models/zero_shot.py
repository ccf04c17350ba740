"""Zero-shot classification: a head for natural language inference rates labels of the client (Yin et al., 2019).

Each label becomes a hypothesis, such as "This example is sport."; the text is the premise. The score says how strongly
the text entails the hypothesis, and equals that of transformers' ZeroShotClassificationPipeline. There are two
differences: the contradiction label is found by its name, not its index, and a long text may be read in windows, as on
/pair.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PrivateAttr, field_validator

from models.classification import MIN_ROW, Pair, ScoredLabel, Truncation
from models.errors import BundleError, InputError
from models.row import Encoded, Row
from models.task import HeadSpec, Logits, Scores, Strict, Task, softmax
from models.tokenizer import Tokenizer
from models.windows import MAX_WINDOWS

MAX_CANDIDATES = 500
MAX_CHARACTERS = 500
"""Maximum characters of a candidate label, and of a template."""
BLANK = "{}"
"""The placeholder for the label in a template."""

Candidate = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


def _split(value: object) -> object:
    """Split a text at its commas, as transformers does."""
    if not isinstance(value, str):
        return value
    return [label for part in value.split(",") if (label := part.strip())]


Candidates = Annotated[
    list[Candidate],
    Field(fail_fast=True),
    BeforeValidator(_split, json_schema_input_type=list[Candidate] | str),
    Field(min_length=1, max_length=MAX_CANDIDATES),
]


class ZeroShotParameters(Strict):
    """Parameters of zero-shot."""

    candidate_labels: Candidates
    """The labels to rate: a list, or one text with commas between the labels."""
    hypothesis_template: str = Field(default="This example is {}.", max_length=MAX_CHARACTERS)
    """The hypothesis for each label, which replaces {}."""
    multi_label: bool = False
    """Whether several labels may be true. Each label is then rated on its own: entailment against contradiction.
    Otherwise the scores of all labels sum to 1. A single label is always rated on its own."""
    truncation: Truncation | bool | None = None
    """What to do with a text that is too long, as on /pair; by default what this head does there."""
    max_length: int | None = Field(default=None, ge=MIN_ROW)
    """Maximum tokens of a row, as on /pair."""
    _hypotheses: list[list[int]] | None = PrivateAttr(None)
    """The token ids of the hypotheses, after they were tokenized."""

    @field_validator("hypothesis_template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        if template.count(BLANK) != 1:
            raise ValueError(f"expected {BLANK} in it once, where the label stands")
        return template

    @property
    def characters(self) -> int:
        return sum(map(len, self.candidate_labels)) + len(self.candidate_labels) * len(self.hypothesis_template)


class ZeroShot(Task[str, ZeroShotParameters, list[int], list[ScoredLabel]]):
    """Rate candidate labels for a text, with a pair head."""

    inputs = str
    parameters = ZeroShotParameters

    def __init__(self, tokenizer: Tokenizer, head: HeadSpec, max_length: int) -> None:
        """Raise BundleError for a head that is not for natural language inference."""
        super().__init__(tokenizer, replace(head, defaults={}), max_length)  # the defaults are those of pair
        self._pair = Pair(tokenizer, head, max_length)
        self._entailment, self._contradiction = _find_labels(head.labels)

    @property
    def route(self) -> str:
        return "zero-shot"

    def encode(self, inputs: str, parameters: ZeroShotParameters) -> Encoded[list[int]]:
        """Make the rows of all labels; the source holds the index of each label's first row."""
        asked = self._pair.parse_parameters(_of_pair(parameters))
        text = self.tokenizer.ids(inputs)
        rows, firsts, truncated = list[Row](), list[int](), 0
        for hypothesis in self._hypotheses(parameters, self._pair.room(asked) // 2):
            firsts.append(len(rows))
            made, cut = self._pair.rows(text, hypothesis, asked)
            rows += made
            truncated = max(truncated, cut)
            if len(rows) > MAX_WINDOWS:
                raise InputError(
                    "inputs",
                    f"has {len(text)} tokens, which with {len(parameters.candidate_labels)} labels makes more than "
                    f"{MAX_WINDOWS} rows; shorten it, or send fewer candidate_labels",
                )
        return Encoded(rows, firsts, truncated)

    def decode(self, encoded: Encoded[list[int]], logits: Logits, parameters: ZeroShotParameters) -> list[ScoredLabel]:
        labels, temperature = parameters.candidate_labels, self.head.temperature
        if parameters.multi_label or len(labels) == 1:
            pairs = softmax(logits[:, [self._contradiction, self._entailment]], temperature)
            scores = self._join(pairs[:, 1], encoded.source)
        else:
            scores = softmax(self._join(logits[:, self._entailment], encoded.source), temperature)
        best = np.argsort(-scores, kind="stable").tolist()
        return [{"label": labels[i], "score": float(scores[i])} for i in best]

    def _check_head(self) -> None:
        if reason := obstacle(self.head):
            raise BundleError(reason)

    def _join(self, values: Logits | Scores, firsts: list[int]) -> Scores:
        """Combine the values [rows] of each label's windows to one per label, as the head does by default."""
        wide = values.astype(np.float64)
        if self._pair.parse_parameters({}).window_scores == "maximum":
            highest: Scores = np.maximum.reduceat(wide, firsts)
            return highest
        means: Scores = np.add.reduceat(wide, firsts) / np.diff(firsts, append=len(wide))
        return means

    def _hypotheses(self, parameters: ZeroShotParameters, room: int) -> list[list[int]]:
        """Return the token ids of the hypotheses; they are tokenized once for all texts with these parameters."""
        if parameters._hypotheses is None:
            self.tokenizer.ids(parameters.hypothesis_template, "parameters.hypothesis_template")
            candidates = enumerate(parameters.candidate_labels)
            parameters._hypotheses = [self._hypothesis(number, label, parameters, room) for number, label in candidates]
        return parameters._hypotheses

    def _hypothesis(self, number: int, label: str, parameters: ZeroShotParameters, room: int) -> list[int]:
        field = f"parameters.candidate_labels.{number}"
        self.tokenizer.ids(label, field)
        # Not str.format: a client's template could read attributes, or request a gigabyte of padding.
        ids = self.tokenizer.ids(parameters.hypothesis_template.replace(BLANK, label), field)
        if len(ids) > room:
            raise InputError(
                field,
                f"makes a sentence of {len(ids)} tokens, but half of a row has room for {room}; shorten the label or "
                "the hypothesis_template",
            )
        return ids


def obstacle(head: HeadSpec) -> str:
    """Return why a head cannot rate candidate labels; an empty string if it can."""
    if head.task != "pair":
        return f"the head is for /{head.task}, but zero-shot needs one for /pair; choose another head"
    if head.usual_function != "softmax" or _find_labels(head.labels)[0] < 0:
        return (
            f"the head has the labels {', '.join(head.labels)[:200]}, but zero-shot needs labels that compete, one of "
            'which begins with "entail"; choose a head for natural language inference'
        )
    return ""


def _find_labels(labels: Sequence[str]) -> tuple[int, int]:
    """Return the indices of the labels for entailment (-1 if there is none) and contradiction.

    If no label is named contradiction, it is the last label if entailment is the first one, otherwise the first.
    """
    entailment = _find(labels, "entail", -1)
    return entailment, _find(labels, "contradict", len(labels) - 1 if entailment == 0 else 0)


def _find(labels: Sequence[str], beginning: str, otherwise: int) -> int:
    return next((i for i, label in enumerate(labels) if label.lower().startswith(beginning)), otherwise)


def _of_pair(parameters: ZeroShotParameters) -> dict[str, Any]:
    """Return the parameters that a pair head takes."""
    chosen = {"truncation": parameters.truncation, "max_length": parameters.max_length}
    return {name: value for name, value in chosen.items() if value is not None}
