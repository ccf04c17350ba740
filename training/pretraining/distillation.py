"""Distillation: a student learns the hidden states and the masked-token distributions of a larger encoder.

Hidden states follow TinyBERT (Jiao et al., 2020): the squared distance after the last layer. The projection is not
learned; it has the principal components of the teacher's states. It follows from teacher and text, so a resumed run
needs no other state. The teacher reads the text without the masks of its student (data2vec, Baevski et al., 2022), so
its state at a masked token contains the token. Distributions follow Hinton et al. (2015) at temperature 1: the
divergence of the student's from the teacher's. A fresh student starts as the teacher, pruned to its size (pruning.py).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import Checkpoint
from models.encoder import Encoder
from training.errors import RecipeError
from training.pretraining.batches import Batch, Rows, collate
from training.pretraining.pretrain_recipe import PretrainRecipe
from training.pretraining.pruning import check_size, check_sizes, prune
from training.run.distributed import Processes
from training.run.start_from import read_base
from training.text.corpus import vocabulary_hash

SAMPLED = 1 << 15
"""Tokens on which the components of a teacher's hidden states are computed."""


@dataclass(frozen=True)
class Teacher:
    """A frozen encoder, and the directions of its hidden states that a student learns."""

    encoder: Encoder
    head: nn.Module | None
    """The frozen masked-token head, if its distributions are learned too."""
    components: Tensor
    """Principal directions [H, width of the student] of the hidden states."""
    variance: float
    """Variance of the hidden states along all components."""
    sample: Batch
    """The text that the components were computed on."""

    @classmethod
    def read(
        cls, directory: Path, student: Checkpoint, longest: int, sample: Batch, distributions: bool = False
    ) -> "Teacher":
        """Read a checkpoint or bundle, and compute its components on a few thousand tokens of `sample`.

        Raise RecipeError if it cannot teach this `student` in rows of up to `longest` tokens.
        """
        checkpoint = read_base(directory)
        if vocabulary_hash(checkpoint.tokenizer) != vocabulary_hash(student.tokenizer):
            raise RecipeError(f"teacher {directory} and student have different vocabularies; give both the same")
        if longest > checkpoint.config.max_position_embeddings:
            raise RecipeError(
                f"teacher {directory} has {checkpoint.config.max_position_embeddings} positions, but max_length is "
                f"{longest}; lower it, or name another teacher"
            )
        check_size("width", checkpoint.config.hidden_size, student.config.hidden_size)
        able = [head.module for head in checkpoint.heads.values() if head.spec.task == "fill-mask"]
        if distributions and not able:
            raise RecipeError(f"teacher {directory} has no fill-mask head; set teacher_share = 0, or pretrain one")
        encoder, head = checkpoint.encoder, able[0] if distributions else None
        nn.ModuleList([encoder, *able]).to(sample.input_ids.device).eval().requires_grad_(False)
        sample = sample.unmasked()
        states = hidden_states(encoder, sample)[sample.attention_mask.bool()]
        components = principal_components(states - states.mean(0), student.config.hidden_size)
        return cls(encoder, head, components, float((states @ components).var(0, correction=0).sum()), sample)

    def losses(self, batch: Batch, hidden: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the divergence summed over the selected tokens, and the distance of states summed over the rows.

        `hidden` [B, S, H] and `logs` [n, V] (log-probabilities) are the student's. The vocabularies are equal, though
        their paddings may differ.
        """
        theirs = hidden_states(self.encoder, batch.unmasked())
        return self.masked_divergence(batch, logs), self.distance(hidden, theirs, batch.attention_mask)

    def masked_divergence(self, batch: Batch, logs: Tensor) -> Tensor:
        """Return the divergence at masked tokens, which are masked for the teacher too; 0 without a fill-mask head."""
        if self.head is None:
            return logs.new_zeros(())
        with torch.no_grad():
            their_logits = self.head(hidden_states(self.encoder, batch).flatten(0, 1)[batch.positions])
        return divergence(logs, their_logits)

    def distance(self, hidden: Tensor, theirs: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the share of the variance of hidden states that a row of the student misses, summed over rows."""
        mask = attention_mask.float()
        squares = (hidden.float() - theirs.float() @ self.components).square().sum(-1) * mask  # (rows, length)
        return (squares.sum(1) / mask.sum(1)).sum() / self.variance

    def hand_down(self, student: Encoder) -> None:
        """Start a fresh student as the teacher, pruned to its size; raise RecipeError for an impossible shape."""
        prune(self.encoder, student, self.components, self.sample)


def read_teacher(recipe: PretrainRecipe, student: Checkpoint, rows: Rows, processes: Processes) -> Teacher:
    """Return the recipe's teacher, with components from the first `rows` of the run."""
    count = min(rows.count(0), max(1, SAMPLED // rows.max_length))
    sample = collate([rows.row(0, i) for i in range(count)]).to(processes.device)
    teacher = Teacher.read(
        Path(recipe.teacher or ""), student, recipe.longest, sample, distributions=recipe.teacher_share > 0
    )
    if not recipe.base:
        check_sizes(teacher.encoder.config, student.config)  # needed in every process, though only the first one prunes
    processes.share([teacher.components])  # the signs of eigenvectors depend on the processor
    return teacher


def divergence(logs: Tensor, their_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of log-probabilities [n, V] from logits [n, V'], summed over n."""
    size = min(logs.shape[1], their_logits.shape[1])
    their_logs = their_logits[:, :size].log_softmax(-1, dtype=torch.float32)
    return (their_logs.exp() * (their_logs - logs[:, :size])).sum()


@torch.no_grad()
def hidden_states(encoder: Encoder, batch: Batch) -> Tensor:
    states: Tensor = encoder(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    return states


def principal_components(values: Tensor, count: int) -> Tensor:
    """Return up to `count` directions [H, count] in which `values` [n, H] are largest, the largest first."""
    values = values.double()
    directions: Tensor = torch.linalg.eigh(values.T @ values).eigenvectors  # in ascending order
    return directions.flip(1)[:, :count].float()
