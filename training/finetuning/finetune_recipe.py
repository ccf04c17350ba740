"""The recipe of a finetuning run: its base, its heads, and their shares of the steps."""

import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from models.manifest import NAME
from models.task import ProblemType, TaskName
from training.errors import RecipeError
from training.pretraining.pretrain_recipe import SPECS, PretrainRecipe
from training.run.precision import Precision
from training.run.recipe import Dropout, NotNegative, Positive, Seed, Share, Threads

RESERVED = ("pretraining", *SPECS)
"""Reserved names: the steps of a corpus, and its heads."""

DEFAULTS: dict[TaskName, dict[str, Any]] = {
    "classify": {"truncation": "windows", "window_scores": "mean"},
    "tag": {"pieces": "joint"},
}
"""Defaults of heads, by task. A text longer than the rows of training is read in windows. On texts of about 200 tokens,
the starter's sentiment, which learned from sentences, was right for 83 % with windows, and for 64 % with one row."""


@dataclass(frozen=True)
class HeadRecipe:
    """The recipe of one head."""

    task: TaskName
    train: list[str]
    """Files or folders of examples, below `data` if that is set."""
    validation: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of the fields, such as {text = "sentence"}; usual names are known."""
    skip_broken: NonNegativeInt = 0
    """Maximum broken rows that are skipped, in training and in validation each."""
    labels: list[str] = field(default_factory=list)
    """In the order of the logits; found in the training data if empty."""
    problem_type: ProblemType | None = None
    """For classify and pair: the problem type; default: from the form of labels (training/text/problem_types.py)."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Default parameters of this head that differ from those of its task."""
    share: Positive = 1.0
    """Share of the steps of this head, relative to the shares of all heads."""
    batch_size: PositiveInt = 32
    max_length: PositiveInt = 128
    """Maximum tokens of a row; longer examples are cut (classify, pair) or read in windows (tag, qa)."""
    joined: bool = True
    """For tag: also learn from randomly joined sentences; without it, /tag splits texts into sentences."""
    unanswerable: NotNegative = 0.0
    """For qa: share of questions to add that a similar context does not answer, relative to those with an answer."""
    class_weights: Share = 0.0
    """Exponent of class weights: an example weighs the inverse of its class frequency to this power."""
    license: str = ""
    """License of its data, for the model card, such as "CC BY 4.0"."""
    consistency: NotNegative = 0.0
    """Weight of the distance between two passes with dropout (R-Drop, arXiv 2106.14448); it needs an extra pass."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """The recipe of a finetuning run."""

    base: str
    """Checkpoint or bundle to start from; its heads with names of this recipe continue learning."""
    heads: dict[str, HeadRecipe]
    data: str = ""
    corpus: str | None = None
    """Corpus that keeps the heads fill-mask and nsp in the mixture."""
    corpus_share: Positive = 1.0
    corpus_batch_size: PositiveInt = 32
    corpus_mask_rate: float = 0.15
    """Share of masked tokens in steps of the corpus, like `mask_rate` of pretraining."""
    corpus_rotate: NonNegativeInt = 1
    """First epoch of the corpus; pretraining starts with 0."""
    steps: PositiveInt = 1000
    epochs: NotNegative = 0.0
    """Passes over the rows of all heads; replaces `steps` and every `share`. Evaluations follow passes, at most ten."""
    rate: Positive = 5e-5
    head_rate: Positive = 5e-4
    """Peak rate of heads that the base lacks; they must learn more than the encoder."""
    probe: bool = False
    """Fit fresh single-label classifiers to the base's vectors before the first step (probe.py)."""
    freeze_embeddings: bool = False
    """Keep the word embedding of the base (see PretrainRecipe)."""
    freeze_encoder: bool = False
    """Keep the encoder; only the heads learn. Heads of the base that are not named here stay too."""
    warmup: Share = 0.06
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    dropout: Dropout = 0.1
    attention_dropout: Dropout = 0.1
    """Dropout of attention probabilities; slow on CPU: 2,000 tokens/s with it, 3,500 without, at 200 tokens per row."""
    corpus_dropout: Dropout = 0.0
    """Dropout in steps of the corpus, whose rows seldom repeat (cramming, arXiv 2212.14034)."""
    precision: Precision = "fp32"
    """Precision of the forward and backward pass; bf16 for processors with AVX-512 BF16 or AMX, and GPUs."""
    seed: Seed = 0
    threads: Threads = 0
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_examples: PositiveInt = 500
    """Examples per head at each evaluation during the run; the last evaluation uses all."""
    patience: NonNegativeInt = 0
    """Stop after this many evaluations without a better mean of headline figures, and keep the best; 0 = never."""

    def __post_init__(self) -> None:
        if not self.heads:
            raise RecipeError("heads is empty, expected at least one table [heads.NAME]; add one")
        for name, head in self.heads.items():
            if not re.fullmatch(NAME, name):
                raise RecipeError(f"heads.{name}: expected a name of letters, digits, '.', '_' and '-'; rename it")
            if head.task == "fill-mask":
                raise RecipeError(f"heads.{name}.task is fill-mask, which needs no labels; set corpus instead")
            if self.corpus and name in RESERVED:
                raise RecipeError(f"heads.{name} is trained by a corpus, expected another name; rename it")
            if head.labels and head.task == "qa":
                raise RecipeError(f"heads.{name}.labels are given, but qa has none; leave them out")
            if head.problem_type and head.task not in ("classify", "pair"):
                raise RecipeError(
                    f"heads.{name}.problem_type is {head.problem_type}, but only classify and pair heads have one, and "
                    f"this is {head.task}; leave it out"
                )
            if head.problem_type == "regression" and len(head.labels) > 1:
                raise RecipeError(
                    f"heads.{name}.labels are {head.labels[:8]}, but a regression has one, the name of its number; "
                    "leave them out"
                )
            if head.labels and not (all(map(str.strip, head.labels)) and len(set(head.labels)) == len(head.labels)):
                raise RecipeError(f"heads.{name}.labels are {head.labels[:8]}, expected different, non-empty texts")
            if head.consistency and not (self.dropout or self.attention_dropout):
                raise RecipeError(
                    f"heads.{name}.consistency is {head.consistency}, but without dropout two passes are the same; "
                    "set dropout, or consistency = 0"
                )
        if self.epochs and self.corpus:
            raise RecipeError(f"epochs is {self.epochs:g}, but a corpus has no epochs here; set steps instead")
        if self.patience and not all(head.validation for head in self.heads.values()):
            raise RecipeError("patience needs validation files for every head; add them or set patience = 0")

    @property
    def pretraining(self) -> PretrainRecipe:
        """The recipe of the steps of the corpus."""
        return PretrainRecipe(
            corpus=self.corpus or "",
            base=self.base,
            batch_size=self.corpus_batch_size,
            mask_rate=self.corpus_mask_rate,
            seed=self.seed,
        )
