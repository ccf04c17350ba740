"""Reference figures: shares of a head's validation inputs per bin, with which a service compares its traffic.

There are five figures: `label` (what was answered), `confidence` (score of the best answer), `tokens` (length before
anything is cut), `truncated` (whether it was cut) and `unknown` (share of unknown tokens). Their bins are few and fixed
in the bundle, so no input can create a new one. models/observation.py measures them.
"""

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.bio import split_label
from models.task import HeadSpec

FigureName = Literal["label", "confidence", "tokens", "truncated", "unknown"]

MAX_LABELS = 20
"""The most frequent labels, up to this number, have their own bins; all others share the bin OTHER."""
MAX_EDGES = 11
MAX_SHOWN = 500
"""Maximum characters of a list of names in an error."""
MAX_ROUNDING = 1e-3
"""Maximum difference between the sum of a figure's shares and 1."""
OTHER, NONE = "other", "none"
ANSWERED, UNANSWERED = "answered", "no answer"
UNCUT, CUT = "no", "yes"

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[dict[str, Share], Field(min_length=1, max_length=MAX_LABELS + 2)]


class Part(BaseModel):
    """Base of models that are read from a bundle: unknown fields and type conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Numbers(Part):
    """Shares of a number in the bins between edges; a bin includes its upper edge, and the last bin is open."""

    edges: list[float] = Field(min_length=1, max_length=MAX_EDGES)
    shares: list[Share]

    @property
    def names(self) -> list[str]:
        """Return the names of the bins as intervals: "<=8", "(8, 12]", ">12"."""
        texts = _texts(self.edges)
        inner = [f"({low}, {high}]" for low, high in zip(texts, texts[1:], strict=False)]
        return [f"<={texts[0]}", *inner, f">{texts[-1]}"]

    @property
    def by_name(self) -> dict[str, float]:
        """Return the share of each bin."""
        return dict(zip(self.names, self.shares, strict=True))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"{len(self.shares)} shares for {len(self.edges)} edges, expected one more than edges")
        if any(low >= high for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges are {self.edges}, expected ascending numbers")
        if len(set(_texts(self.edges))) < len(self.edges):
            raise ValueError(f"edges are {self.edges}, expected numbers that differ within 12 digits")
        return self


def _texts(edges: list[float]) -> list[str]:
    return [f"{edge:.12g}" for edge in edges]


class Reference(Part):
    """The reference figures of a head; figures that do not apply to it are None."""

    inputs: int = Field(ge=1)
    """How many validation inputs they were measured on."""
    label: Shares | None = None
    """What was answered: labels, entity types, or whether there was an answer. An input with n labels counts 1/n for
    each."""
    number: Numbers | None = None
    """The answer of a regression, in place of `label`."""
    confidence: Numbers | None = None
    """Score of the best answer; 0 if there is none."""
    tokens: Numbers
    """Tokens of all rows of an input, including those that were cut off."""
    truncated: Shares
    """Whether anything was cut off: CUT or UNCUT."""
    unknown: Numbers | None = None
    """Share of unknown tokens; None for byte-level vocabularies, which have none."""

    @property
    def numbers(self) -> dict[FigureName, Numbers]:
        """Return the figures that are numbers."""
        found: dict[FigureName, Numbers | None] = {
            "label": self.number,
            "confidence": self.confidence,
            "tokens": self.tokens,
            "unknown": self.unknown,
        }
        return {name: numbers for name, numbers in found.items() if numbers}

    @property
    def shares(self) -> dict[FigureName, dict[str, float]]:
        """Return the share of each bin, for all figures that are not None."""
        label: dict[FigureName, dict[str, float]] = {"label": self.label} if self.label else {}
        numbers = {name: numbers.by_name for name, numbers in self.numbers.items()}
        return label | numbers | {"truncated": self.truncated}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if set(self.truncated) != {CUT, UNCUT}:
            raise ValueError(f'truncated has the bins {listed(self.truncated)}, expected "{UNCUT}" and "{CUT}"')
        if self.label and self.number:
            raise ValueError("label and number are both given, expected one of them")
        for name, shares in self.shares.items():
            if abs((total := sum(shares.values())) - 1) > MAX_ROUNDING:
                raise ValueError(f"the shares of {name} add up to {total:.6g}, expected 1")
        return self

    def check(self, head: HeadSpec) -> None:
        """Raise ValueError for a figure that does not apply to the head, or for labels that it does not have."""
        names = label_names(head)
        if self.number and not is_number(head):
            raise ValueError(f"number is given, expected none for a {head.task} head that is not a regression")
        if self.label and not names:
            raise ValueError(f"label is given, expected none for a {head.task} head that does not choose a label")
        if self.label and (strange := set(self.label) - {*names, OTHER}):
            raise ValueError(f"label has the bin {min(strange)!r}, expected some of {listed([*names, OTHER])}")
        if self.label and OTHER not in self.label and (missing := set(names) - set(self.label)):
            raise ValueError(f'label has no bin {min(missing)!r}, expected one, or one named "{OTHER}"')


def is_number(head: HeadSpec) -> bool:
    """Whether the answers of a head are one number each."""
    return head.problem_type == "regression" and len(head.labels) == 1


def label_names(head: HeadSpec) -> list[str]:
    """Return the bins of `label`; an empty list if the head does not choose a label or always has the same outcome.

    A label with the name "none" or "other" shares that bin.
    """
    if head.task == "qa":
        return [ANSWERED, UNANSWERED] if head.defaults.get("handle_impossible_answer") else []
    if head.task == "tag":
        kinds = dict.fromkeys(split_label(label)[1] for label in head.labels)
        return [*(kind for kind in kinds if kind not in head.defaults.get("ignore_labels", ["O"])), NONE]
    if head.problem_type == "regression":
        return []
    may_be_none = head.usual_function == "sigmoid" or head.defaults.get("threshold") is not None
    return list(dict.fromkeys([*head.labels, *([NONE] if may_be_none else [])]))


def listed(names: Iterable[str]) -> str:
    """Return a list of names for an error, cut at MAX_SHOWN characters."""
    return ", ".join(names)[:MAX_SHOWN]
