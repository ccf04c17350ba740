"""AdamW and its schedule as in BERT: no decay on biases and LayerNorm, warm-up, then linear decay to zero."""

import torch

from models.checkpoint import Checkpoint

EPSILON = 1e-6  # google-research/bert optimization.py:59


def build_optimizer(checkpoint: Checkpoint, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW over the trainable weights; matrices decay (embeddings too), vectors do not.

    Fresh heads are in groups with "fresh" set, because they have their own rate. A tied decoder belongs to the encoder.
    Deviation: torch corrects Adam's bias, and the original does not (optimization.py:137).
    """
    modules = [checkpoint.encoder, *(head.module for head in checkpoint.heads.values())]
    learning = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}  # a tied weight once
    fresh = {id(p) for name in checkpoint.fresh for p in checkpoint.heads[name].module.parameters()}
    fresh -= {id(p) for p in checkpoint.encoder.parameters()}
    groups = [
        {
            "params": [p for key, p in learning.items() if (key in fresh) == is_fresh and (p.dim() >= 2) == matrix],
            "weight_decay": decay,
            "fresh": is_fresh,
        }
        for is_fresh in (False, True)
        for matrix, decay in ((True, weight_decay), (False, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=EPSILON, fused=True)


def schedule(step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """Return the share of the peak rate at `step` (from 0): it rises for `warmup` steps, then falls to `final`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1 - (1 - final) * min(1.0, (step - warmup) / max(1, steps - warmup))


def set_rates(optimizer: torch.optim.Optimizer, rate: float, fresh_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = fresh_rate if group["fresh"] else rate
