"""The recipe of a head from its data and its base: epochs, rates, row length, patience.

A wide or deep encoder needs small steps. BERT-base is finetuned with 2e-5 to 5e-5 (Devlin et al., 2018, A.3); the
starter, with half its width and depth, learned 100 intents best with 3e-4. Fewer examples get more epochs.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.task import TaskName
from training.finetuning.finetune_recipe import FinetuneRecipe, HeadRecipe
from training.head.base import Base
from training.head.data import TRAIN, VALIDATION
from training.text.examples import Example, PairExample, TextExample
from training.text.problem_types import problem_of

RATE, RATE_WIDTH, RATE_LAYERS = 3e-4, 384, 6
"""The rate for an encoder of this width and depth, those of the starter."""
MIN_RATE, MAX_RATE = 1e-5, 5e-4
HEAD_RATE, PROBED_RATE = 10.0, 3.3
"""Rate of a fresh head relative to the encoder: from random weights, or fitted to the base's vectors first."""
MIN_EPOCHS, MAX_EPOCHS, EPOCHS = 4, 10, 240.0
"""Epochs are EPOCHS / √rows, within these bounds: 10 for up to 576 rows, 8 for 800, 5 for 2,000."""
FROZEN_RATE = 3e-3
"""Rate of a head on a frozen encoder."""
PATIENCE, MIN_VALIDATION = 3, 500
"""Evaluations without a better figure before training stops; on fewer examples a figure is mostly chance."""
FEW = 5000
"""With fewer rows than this, batches are small, so an epoch has enough steps."""
PERCENTILE = 98
"""Share of the examples that fit into a row without being cut."""
MIN_ROW = 64
"""Minimum row length: a few short examples do not show how long texts will be, and short rows cost little."""
ROWS: dict[TaskName, int] = {"tag": 128, "qa": 384}
"""Tokens of rows that join sentences, or of windows over a context."""


def rate_of(hidden_size: int, layers: int) -> float:
    """Return the peak rate for an encoder; it falls with the square of its width, and with its depth."""
    scaled = RATE * (RATE_WIDTH / hidden_size) ** 2 * RATE_LAYERS / layers
    return float(f"{min(MAX_RATE, max(MIN_RATE, scaled)):.2g}")


def epochs_of(rows: int) -> int:
    """Return the number of passes over `rows` examples."""
    return round(min(MAX_EPOCHS, max(MIN_EPOCHS, EPOCHS / math.sqrt(rows))))


def row_length(task: TaskName, examples: Sequence[Example], base: Base) -> int:
    """Return the tokens of a row that fit 98 % of the examples, with special tokens; a multiple of 8."""
    if task in ROWS:
        return min(ROWS[task], base.max_length)
    lengths = [tokens(example, base) for example in examples]
    longest = 8 * math.ceil(float(np.percentile(lengths, PERCENTILE)) / 8)
    return min(max(longest, MIN_ROW), base.max_length)


def tokens(example: Example, base: Base) -> int:
    """Count the tokens of an example as one whole row."""
    if isinstance(example, PairExample):
        return len(base.tokenizer.ids(example.text_a)) + len(base.tokenizer.ids(example.text_b)) + 3
    assert isinstance(example, TextExample)
    return len(base.tokenizer.ids(example.text)) + 2


def recipe_of(
    name: str,
    task: TaskName,
    base: Base,
    data: Path,
    training: Sequence[Example],
    validation: Sequence[Example],
    epochs: float | None = None,
    freeze: bool = False,
    seed: int = 0,
) -> FinetuneRecipe:
    """Return the recipe of a head named `name` with examples in the directory `data`."""
    rate = rate_of(base.hidden_size, base.layers)
    probed = all(isinstance(getattr(example, "label", None), str) for example in training)
    head = HeadRecipe(
        task,
        [TRAIN],
        [VALIDATION] if validation else [],
        batch_size=16 if len(training) < FEW else 32,
        max_length=row_length(task, training, base),
        problem_type=problem_of(training) if task in ("classify", "pair") else None,
    )
    return FinetuneRecipe(
        str(base.directory),
        {name: head},
        data=str(data),
        epochs=float(epochs or epochs_of(len(training))),
        rate=rate,
        head_rate=FROZEN_RATE if freeze else float(f"{(PROBED_RATE if probed else HEAD_RATE) * rate:.2g}"),
        probe=probed,
        freeze_embeddings=True,
        freeze_encoder=freeze,
        warmup=0.1,
        attention_dropout=0.0,
        patience=PATIENCE if len(validation) >= MIN_VALIDATION else 0,
        seed=seed,
    )
