"""AdamW and its schedule, as BERT uses them: no decay on biases and LayerNorm, warm-up, then linear to zero."""

import torch

from models.checkpoint import Checkpoint

EPSILON = 1e-6  # google-research/bert optimization.py:59


def build_optimizer(checkpoint: Checkpoint, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what learns in an encoder and its heads; matrices decay (embeddings too), vectors do not.

    The fresh heads stand in groups with "fresh" set, for a rate of their own; a tied decoder is the encoder's.
    Deviation: torch corrects Adam's bias, the original does not (optimization.py:137).
    """
    modules = [checkpoint.encoder, *(head.module for head in checkpoint.heads.values())]
    learning = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}  # a tied one once
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
    """Share of the peak rate at `step` (from 0): rises over `warmup` steps, then falls to `final` at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1 - (1 - final) * min(1.0, (step - warmup) / max(1, steps - warmup))


def set_rates(optimizer: torch.optim.Optimizer, rate: float, fresh_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = fresh_rate if group["fresh"] else rate
