"""AdamW and its schedule, as BERT uses them: no decay on biases and LayerNorm, warm-up, then linear to zero."""

from collections.abc import Iterable

import torch
from torch import nn

from models.checkpoint import Checkpoint

EPSILON = 1e-6  # google-research/bert optimization.py:59


def build_optimizer(
    named: Iterable[tuple[str, nn.Parameter]],
    rate: float,
    weight_decay: float,
    fresh: Iterable[tuple[str, nn.Parameter]] = (),
) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; matrices decay (embeddings too), vectors (biases, LayerNorm) do not.

    Parameters of `fresh` that are not among `named` stand in groups with "fresh" set, for a rate of their own.
    Deviation: torch corrects Adam's bias, the original does not (optimization.py:137).
    """
    first = {id(p): p for _, p in named if p.requires_grad}  # by identity: the tied decoder counts once
    second = {id(p): p for _, p in fresh if p.requires_grad and id(p) not in first}
    groups = [
        {"params": [p for p in found.values() if (p.dim() >= 2) == matrix], "weight_decay": decay, "fresh": is_fresh}
        for is_fresh, found in ((False, first), (True, second))
        for matrix, decay in ((True, weight_decay), (False, 0.0))
        if found
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), eps=EPSILON, fused=True)


def head_parameters(checkpoint: Checkpoint) -> list[tuple[str, nn.Parameter]]:
    return [named for head in checkpoint.heads.values() for named in head.module.named_parameters()]


def schedule(step: int, steps: int, warmup: int, final: float = 0.0) -> float:
    """Share of the peak rate at `step` (from 0): rises over `warmup` steps, then falls to `final` at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 1 - (1 - final) * min(1.0, (step - warmup) / max(1, steps - warmup))


def set_rates(optimizer: torch.optim.Optimizer, rate: float, fresh_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = fresh_rate if group["fresh"] else rate
