"""What a pretraining run is: its corpus, its encoder, its phases, and how it learns."""

from dataclasses import dataclass, field, fields

from pydantic import NonNegativeInt, PositiveInt

from models.architectures import NSP_LABELS
from models.task import HeadSpec
from training.errors import RecipeError
from training.run.precision import Precision
from training.run.recipe import Dropout, NotNegative, Positive, Seed, Share, Threads

SINGLE = ("steps", "max_length", "batch_size")
"""Fields that phases stand in place of."""
SPECS = {"fill-mask": HeadSpec("fill-mask", []), "nsp": HeadSpec("pair", NSP_LABELS)}
"""The heads of pretraining, by name."""


@dataclass(frozen=True)
class Phase:
    """A part of a run with rows of its own length (BERT paper: 128 for 90 % of the steps, then 512)."""

    steps: PositiveInt
    max_length: PositiveInt
    batch_size: PositiveInt


@dataclass(frozen=True)
class PretrainRecipe:
    """What a pretraining run is."""

    corpus: str
    """Directory made by `python -m training corpus`."""
    base: str | None = None
    """Checkpoint or bundle to start from; without one, weights are random and the sizes below count."""
    tokenizer: str | None = None
    """Of random weights; by default the corpus' own."""
    word_vectors: bool = False
    """Begin random weights with the word embedding that counting in the corpus gives, some minutes, once."""
    layers: PositiveInt = 4
    width: PositiveInt = 256
    attention_heads: PositiveInt = 4
    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 32
    """Pairs a step, of all processes together."""
    accumulate: PositiveInt = 1
    """Forward passes a step and process, each over an equal part of its pairs."""
    max_length: PositiveInt = 128
    """Tokens of a pair with its three specials."""
    phases: list[Phase] = field(default_factory=list)
    """In place of steps, batch_size and max_length: parts of the run, one after the other, under one schedule."""
    nsp: bool = True
    """Pairs and next sentences; without them each row is one run of text, and the only head is fill-mask."""
    mask_rate: float = 0.15
    whole_words: bool = False
    """Select words with all their pieces."""
    rate: Positive = 1e-4
    """Peak learning rate (BERT paper: 1e-4 at batch 256)."""
    head_rate: Positive | None = None
    """Peak rate of heads that the base lacks, which have further to go than its encoder; by default `rate`."""
    freeze_embeddings: bool = False
    """Keep the base's word embedding, which is the decoder too. Adam moves every row of it at every step, for each is
    an answer that was not right: those of rare words, which are seldom read, go astray."""
    warmup: Share = 0.01
    """Share of the steps."""
    final_rate: Share = 0.0
    """Share of the peak rate at the last step; above zero where another run goes on from this one."""
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    """Largest norm of the gradient (BERT paper)."""
    dropout: Dropout = 0.1
    precision: Precision = "fp32"
    """Of the forward and backward pass; bf16 where the processor has it (AVX-512 BF16, AMX, GPUs)."""
    seed: Seed = 0
    compile: bool = False
    threads: Threads = 0
    """Threads of torch, 0 = its own choice."""
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_pairs: PositiveInt = 256
    teacher: str | None = None
    """Checkpoint or bundle of the same vocabulary, to learn from beside the text."""
    teacher_share: float = 0.0
    """Weight of the distributions of its fill-mask head, at twice its time; the labels have the rest."""
    state_weight: NotNegative = 30.0
    """Weight of the distance to its hidden states, which is 1 for a student that knows their mean alone."""
    plateau_after: NonNegativeInt = 1000
    """Steps after which a loss that is no better than the frequencies of tokens ends the run."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise RecipeError(f"mask_rate is {self.mask_rate}, expected a share between 0 and 1; BERT takes 0.15")
        if self.freeze_embeddings and not self.base:
            raise RecipeError("freeze_embeddings is true, but there is no base, and random ones must learn; name one")
        if not 0 <= self.teacher_share <= 1:
            raise RecipeError(f"teacher_share is {self.teacher_share}, expected a share from 0 to 1; 0.5 weighs alike")
        for phase in self.parts:
            if not 8 <= phase.max_length:
                raise RecipeError(f"max_length is {phase.max_length}, expected 8 or more tokens; BERT takes 128 or 512")
            if phase.batch_size % self.accumulate:
                raise RecipeError(
                    f"accumulate is {self.accumulate}, expected a divisor of batch_size {phase.batch_size}; change one"
                )

    @property
    def unread(self) -> list[str]:
        """Fields that were given beside phases, a base or a teacher, which stand in their place."""
        replaced = [*(SINGLE if self.phases else ()), *(["tokenizer"] if self.base else ())]
        replaced += ["word_vectors"] if self.base or self.teacher else []
        given = [field for field in fields(self) if field.name in replaced]
        return [field.name for field in given if getattr(self, field.name) != field.default]

    @property
    def parts(self) -> list[Phase]:
        """The phases, one where the recipe names none."""
        return self.phases or [Phase(self.steps, self.max_length, self.batch_size)]

    @property
    def specs(self) -> dict[str, HeadSpec]:
        """The heads that learn, by name."""
        return {name: spec for name, spec in SPECS.items() if self.nsp or name != "nsp"}

    @property
    def longest(self) -> int:
        """Tokens of the longest rows."""
        return max(phase.max_length for phase in self.parts)

    @property
    def all_steps(self) -> int:
        return sum(phase.steps for phase in self.parts)
