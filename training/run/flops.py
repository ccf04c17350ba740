"""Floating-point operations of a training step, and how many the machine can do: the share says what is to be gained.

Counted as PaLM does (Chowdhery et al., 2022, appendix B): products only, twice a multiply-add, backward twice forward,
nothing for padding. What is recomputed or spent elsewhere counts as lost.
"""

import time

import torch
from torch import Tensor

from models.config import EncoderConfig
from training.run.precision import Precision

SIDE = {"cpu": 1024, "cuda": 8192}
"""Of the square matrices whose product is the peak: large enough, and a fraction of a second."""
REPEATS = 5


def training_flops(config: EncoderConfig, lengths: Tensor, masked: int) -> float:
    """Operations of forward and backward over rows of `lengths` [B] tokens, of which `masked` meet the vocabulary."""
    width, tokens = config.hidden_size, int(lengths.sum())
    layer = 4 * width * width + 2 * width * config.intermediate_size  # weights that each token is multiplied with
    attention = 2 * width * float((lengths.double() ** 2).sum())  # multiply-adds of scores and mixing
    head = masked * width * (config.vocab_size + width)
    return 3 * 2 * (config.num_hidden_layers * (tokens * layer + attention) + head)


def matmul_peak(precision: Precision, device: torch.device) -> float:
    """Operations per second of one large product on this machine, with the threads that torch has now; best of some."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    side = SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    torch.mm(left, right)
    seconds = []
    for _ in range(REPEATS):
        wait_for(device)
        began = time.perf_counter()
        torch.mm(left, right)
        wait_for(device)
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / min(seconds)


def wait_for(device: torch.device) -> None:
    """Let a GPU finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
