"""What a finetuning run is: its base, its heads, and how they share the steps."""

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
"""Names of the steps of a corpus, and of their heads."""

DEFAULTS: dict[TaskName, dict[str, Any]] = {
    "classify": {"truncation": "windows", "window_scores": "mean"},
    "tag": {"pieces": "joint"},
}
"""Of heads that learn here. A text longer than the rows of training is read in windows: on texts of some 200 tokens the
starter's sentiment, which learned from sentences, was right for 0.83 of them by windows, for 0.64 by one row."""


@dataclass(frozen=True)
class HeadRecipe:
    """One labelled head of a finetuning run."""

    task: TaskName
    train: list[str]
    """Files of examples, or folders of them, below `data` where that is set."""
    validation: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """Which column of the files is which field, such as {text = "sentence"}; usual names are known."""
    skip_broken: NonNegativeInt = 0
    """Broken rows that are skipped, of training and of validation each."""
    labels: list[str] = field(default_factory=list)
    """In the order of the logits; found in the training data if empty."""
    problem_type: ProblemType | None = None
    """Of classify and pair: what the labels are; by their form if it is not set (training/text/problem_types.py)."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Parameters whose default this head changes."""
    share: Positive = 1.0
    """How often a step is of this head, in proportion to the shares of all."""
    batch_size: PositiveInt = 32
    max_length: PositiveInt = 128
    """Longer examples are cut (classify, pair) or fall into windows (tag, qa)."""
    joined: bool = True
    """Of tag: learn from rows of several sentences too, joined at random; without it /tag cuts where sentences end."""
    unanswerable: NotNegative = 0.0
    """Of qa: questions to add that a like context does not answer, in proportion to those with an answer."""
    class_weights: Share = 0.0
    """How much more an example of a rare class counts: its weight is the inverse of the frequency to this power."""
    licence: str = ""
    """Of its data, for the model card, such as "CC BY 4.0"."""
    consistency: NotNegative = 0.0
    """Weight of the distance between two passes, which costs a second one (R-Drop, arXiv 2106.14448); wants dropout."""


@dataclass(frozen=True)
class FinetuneRecipe:
    """What a finetuning run is."""

    base: str
    """Checkpoint to start from; heads of the same name go on from theirs."""
    heads: dict[str, HeadRecipe]
    data: str = ""
    corpus: str | None = None
    """Keeps the heads fill-mask and nsp learning beside the others."""
    corpus_share: Positive = 1.0
    corpus_batch_size: PositiveInt = 32
    corpus_mask_rate: float = 0.15
    """Share of the corpus' tokens that are selected, as `mask_rate` of pretraining."""
    corpus_rotate: NonNegativeInt = 1
    """Epoch of the corpus to begin with: 0 is what pretraining began with."""
    steps: PositiveInt = 1000
    epochs: NotNegative = 0.0
    """Passes over the rows of all heads, in place of `steps` and of every `share`; an evaluation follows each pass."""
    rate: Positive = 5e-5
    head_rate: Positive = 5e-4
    """Peak rate of heads that the base lacks, which have further to go than the encoder."""
    probe: bool = False
    """Fit fresh classifiers of one label to the base's vectors before the first step (probe.py)."""
    freeze_embeddings: bool = False
    """Keep the word embedding as the base has it (see PretrainRecipe)."""
    freeze_encoder: bool = False
    """Keep all of the encoder: the heads learn to read it, and those of the base that are not named here stay too."""
    warmup: Share = 0.06
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    dropout: Dropout = 0.1
    attention_dropout: Dropout = 0.1
    """Of attention's probabilities; dear on CPU: 2,000 tokens/s with it, 3,500 without, at 200 tokens a row."""
    corpus_dropout: Dropout = 0.0
    """Of steps of the corpus, whose rows are seldom seen twice (cramming, arXiv 2212.14034)."""
    precision: Precision = "fp32"
    """Of the forward and backward pass; bf16 where the processor has it (AVX-512 BF16, AMX, GPUs)."""
    seed: Seed = 0
    threads: Threads = 0
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_examples: PositiveInt = 500
    """Examples a head at each evaluation on the way; the last one takes all."""
    patience: NonNegativeInt = 0
    """Stop after so many evaluations without a better mean of the headline figures, and keep the best; 0 = never."""

    def __post_init__(self) -> None:
        if not self.heads:
            raise RecipeError("heads is empty, expected one table [heads.NAME] or more; add one")
        for name, head in self.heads.items():
            if not re.fullmatch(NAME, name):
                raise RecipeError(f"heads.{name}: expected a name of letters, digits, '.', '_' and '-'; rename it")
            if head.task == "fill-mask":
                raise RecipeError(f"heads.{name}.task is fill-mask, which learns from text alone; set corpus instead")
            if self.corpus and name in RESERVED:
                raise RecipeError(f"heads.{name} is what a corpus trains, expected another name beside one; rename it")
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
                raise RecipeError(f"heads.{name}.labels are {head.labels[:8]}, expected each to be a text of its own")
            if head.consistency and not (self.dropout or self.attention_dropout):
                raise RecipeError(
                    f"heads.{name}.consistency is {head.consistency}, but without dropout two passes are the same; "
                    "set dropout, or consistency = 0"
                )
        if self.epochs and self.corpus:
            raise RecipeError(f"epochs is {self.epochs:g}, but a corpus has no end that counts; set steps instead")
        if self.patience and not all(head.validation for head in self.heads.values()):
            raise RecipeError("patience needs validation files for every head; add them or set patience = 0")

    @property
    def pretraining(self) -> PretrainRecipe:
        """Of the steps of the corpus."""
        return PretrainRecipe(
            corpus=self.corpus or "",
            base=self.base,
            batch_size=self.corpus_batch_size,
            mask_rate=self.corpus_mask_rate,
            seed=self.seed,
        )
