"""The recipe of a pretraining run: corpus, encoder, phases, and optimizer."""

from dataclasses import dataclass, field, fields

from pydantic import NonNegativeInt, PositiveInt

from models.architectures import NSP_LABELS
from models.task import HeadSpec
from training.errors import RecipeError
from training.run.precision import Precision
from training.run.recipe import Dropout, NotNegative, Positive, Seed, Share, Threads

SINGLE = ("steps", "max_length", "batch_size")
"""Fields that phases replace."""
SPECS = {"fill-mask": HeadSpec("fill-mask", []), "nsp": HeadSpec("pair", NSP_LABELS)}
"""The heads of pretraining, by name."""


@dataclass(frozen=True)
class Phase:
    """A part of a run with its own row length (BERT paper: 128 for 90 % of the steps, then 512)."""

    steps: PositiveInt
    max_length: PositiveInt
    batch_size: PositiveInt


@dataclass(frozen=True)
class PretrainRecipe:
    """The recipe of a pretraining run."""

    corpus: str
    """Directory written by `python -m training corpus`."""
    base: str | None = None
    """Checkpoint or bundle to start from; without one, weights are random, with the sizes below."""
    tokenizer: str | None = None
    """Tokenizer for random weights; default: that of the corpus."""
    word_vectors: bool = False
    """Start random weights with a word embedding from counts in the corpus; takes some minutes, once."""
    layers: PositiveInt = 4
    width: PositiveInt = 256
    attention_heads: PositiveInt = 4
    steps: PositiveInt = 10_000
    batch_size: PositiveInt = 32
    """Pairs per step, over all processes."""
    accumulate: PositiveInt = 1
    """Forward passes per step and process, each over an equal part of the pairs."""
    max_length: PositiveInt = 128
    """Maximum tokens of a pair with its three special tokens."""
    phases: list[Phase] = field(default_factory=list)
    """Replaces steps, batch_size and max_length: consecutive parts of the run under one schedule."""
    nsp: bool = True
    """Next-sentence prediction; without it, each row is one run of text, and the only head is fill-mask."""
    mask_rate: float = 0.15
    whole_words: bool = False
    """Mask all pieces of a word, or none."""
    rate: Positive = 1e-4
    """Peak learning rate (BERT paper: 1e-4 at batch 256)."""
    head_rate: Positive | None = None
    """Peak rate of heads that the base lacks; they must learn more than its encoder. Default: `rate`."""
    freeze_embeddings: bool = False
    """Keep the base's word embedding, which is the decoder too. Adam changes every row at every step, because each
    is a wrong answer. Rows of rare words, which are seldom read, would drift away."""
    warmup: Share = 0.01
    """Share of the steps with a rising rate."""
    final_rate: Share = 0.0
    """Share of the peak rate at the last step; above zero if another run continues from this one."""
    weight_decay: NotNegative = 0.01
    clip: Positive = 1.0
    """Maximum norm of the gradient (BERT paper)."""
    dropout: Dropout = 0.1
    precision: Precision = "fp32"
    """Precision of the forward and backward pass; bf16 for processors with AVX-512 BF16 or AMX, and GPUs."""
    seed: Seed = 0
    compile: bool = False
    threads: Threads = 0
    """Threads of torch; 0 means the number at the first start of the run, then one per free core."""
    save_every: PositiveInt = 500
    evaluate_every: PositiveInt = 500
    evaluate_pairs: PositiveInt = 256
    teacher: str | None = None
    """Checkpoint or bundle with the same vocabulary, to learn from besides the text."""
    teacher_share: float = 0.0
    """Weight of the distributions of its fill-mask head, which double the teacher's time; labels get the rest."""
    state_weight: NotNegative = 30.0
    """Weight of the distance to its hidden states; the distance is 1 for a student that knows only their mean."""
    plateau_after: NonNegativeInt = 1000
    """From this step on, a loss no better than token frequencies ends the run."""

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate < 1:
            raise RecipeError(f"mask_rate is {self.mask_rate}, expected a share between 0 and 1; BERT uses 0.15")
        if self.freeze_embeddings and not self.base:
            raise RecipeError("freeze_embeddings is true, but random embeddings must learn; name a base")
        if not 0 <= self.teacher_share <= 1:
            raise RecipeError(f"teacher_share is {self.teacher_share}, expected a share from 0 to 1, such as 0.5")
        for phase in self.parts:
            if not 8 <= phase.max_length:
                raise RecipeError(f"max_length is {phase.max_length}, expected 8 or more tokens; BERT uses 128 or 512")
            if phase.batch_size % self.accumulate:
                raise RecipeError(
                    f"accumulate is {self.accumulate}, expected a divisor of batch_size {phase.batch_size}; change one"
                )

    @property
    def unread(self) -> list[str]:
        """Return the given fields that phases, a base or a teacher override."""
        replaced = [*(SINGLE if self.phases else ()), *(["tokenizer"] if self.base else ())]
        replaced += ["word_vectors"] if self.base or self.teacher else []
        given = [field for field in fields(self) if field.name in replaced]
        return [field.name for field in given if getattr(self, field.name) != field.default]

    @property
    def parts(self) -> list[Phase]:
        """The phases; a single one if the recipe names none."""
        return self.phases or [Phase(self.steps, self.max_length, self.batch_size)]

    @property
    def specs(self) -> dict[str, HeadSpec]:
        """The trained heads, by name."""
        return {name: spec for name, spec in SPECS.items() if self.nsp or name != "nsp"}

    @property
    def longest(self) -> int:
        """Maximum tokens of any row."""
        return max(phase.max_length for phase in self.parts)

    @property
    def all_steps(self) -> int:
        return sum(phase.steps for phase in self.parts)
