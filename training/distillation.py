"""Learning from a larger encoder in the loop of pretraining: its masked-token distributions and its hidden states.

Distributions as in Hinton et al. (2015): the divergence of the student's from the teacher's, both softened. Hidden
states as relations (Park et al., 2019): how alike any two tokens of a row are, which needs no projection between
widths, and so no weights that a resume would have to restore.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import Encoder
from models.tokenizer import Tokenizer
from training.base import read_base
from training.batches import Batch
from training.corpus import vocabulary_hash
from training.errors import RecipeError


@dataclass(frozen=True)
class Teacher:
    """An encoder with a masked-token head, both frozen."""

    encoder: Encoder
    head: nn.Module
    temperature: float

    @classmethod
    def read(cls, directory: Path, tokenizer: Tokenizer, temperature: float, device: torch.device) -> "Teacher":
        """Read a checkpoint or bundle; raise RecipeError if it cannot teach a student with this `tokenizer`."""
        checkpoint = read_base(directory)
        if vocabulary_hash(checkpoint.tokenizer) != vocabulary_hash(tokenizer):
            raise RecipeError(f"teacher {directory} has another vocabulary than the student; give both the same")
        heads = [head.module for head in checkpoint.heads.values() if head.spec.task == "fill-mask"]
        if not heads:
            raise RecipeError(f"teacher {directory} has no fill-mask head; pretrain one, or name another teacher")
        modules = nn.ModuleList([checkpoint.encoder, heads[0]]).to(device).eval().requires_grad_(False)
        return cls(checkpoint.encoder, modules[1], temperature)

    @torch.no_grad()
    def answer(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return hidden states [B, S, H] and the logits [n, V] of the selected tokens."""
        hidden = self.encoder(batch.input_ids, batch.token_type_ids, batch.attention_mask)
        return hidden, self.head(hidden.flatten(0, 1)[batch.positions])

    def losses(self, batch: Batch, hidden: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the divergence summed over the selected tokens, and the error of relations summed over the rows.

        `hidden` [B, S, H] and `logits` [n, V] are the student's; the vocabularies agree, paddings of them need not.
        """
        their_hidden, their_logits = self.answer(batch)
        size = min(logits.shape[1], their_logits.shape[1])
        softened, target = (values[:, :size].float() / self.temperature for values in (logits, their_logits))
        divergence = F.kl_div(softened.log_softmax(-1), target.log_softmax(-1), reduction="sum", log_target=True)
        return self.temperature**2 * divergence, relation_error(hidden, their_hidden, batch.attention_mask)


def relation_error(mine: Tensor, theirs: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean squared difference of cosines between the tokens of a row, summed over rows; widths may differ."""
    mask = attention_mask.float()
    pairs = mask[:, :, None] * mask[:, None, :]  # (rows, length, length)
    difference = (cosines(mine) - cosines(theirs)) ** 2 * pairs
    return (difference.sum((1, 2)) / pairs.sum((1, 2))).sum()


def cosines(hidden: Tensor) -> Tensor:
    unit = F.normalize(hidden.float(), dim=-1)
    return unit @ unit.transpose(1, 2)
