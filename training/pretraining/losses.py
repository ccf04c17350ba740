"""The losses of pretraining: masked tokens, next sentences, and the distances to a teacher."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.pretraining.batches import Batch
from training.pretraining.distillation import Teacher
from training.pretraining.pretrain_recipe import PretrainRecipe


class Losses(NamedTuple):
    """Sums over a batch: cross-entropies, right answers, and with a teacher the distances to it."""

    masked: Tensor
    following: Tensor
    masked_right: Tensor
    following_right: Tensor
    divergence: Tensor
    state: Tensor


def total(parts: Losses, chosen: int, pairs: int, recipe: PretrainRecipe) -> Tensor:
    """Return the loss of a step with `chosen` selected tokens and `pairs` rows, or this batch's part of it."""
    labels = 1 - recipe.teacher_share if recipe.teacher else 1.0
    loss = labels * parts.masked / chosen + parts.following / pairs
    if recipe.teacher:
        loss = loss + recipe.teacher_share * parts.divergence / chosen + recipe.state_weight * parts.state / pairs
    return loss


def counted_by(chosen: int, pairs: int) -> Tensor:
    """Return the count [6] that each field of `Losses` is divided by for its mean."""
    return torch.tensor([chosen, pairs, chosen, pairs, chosen, pairs])


def score(
    encoder: Callable[..., Tensor], heads: Sequence[torch.nn.Module], batch: Batch, teacher: Teacher | None = None
) -> Losses:
    """Return the losses of a batch; the product with the vocabulary is computed only at selected positions."""
    hidden = encoder(batch.input_ids, batch.token_type_ids, batch.attention_mask)
    tokens = heads[0](hidden.flatten(0, 1)[batch.positions])
    logs = tokens.log_softmax(-1, dtype=torch.float32)
    masked = F.nll_loss(logs, batch.labels, reduction="sum")
    nothing = masked.new_zeros(())
    following, following_right = nothing, nothing
    if len(heads) > 1:
        answers = heads[1](hidden[:, 0]).float()
        following = F.cross_entropy(answers, batch.following, reduction="sum")
        following_right = (answers.argmax(-1) == batch.following).sum()
    taught = teacher.losses(batch, hidden, logs) if teacher else (nothing, nothing)
    return Losses(masked, following, (logs.argmax(-1) == batch.labels).sum(), following_right, *taught)
