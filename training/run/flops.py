"""The floating-point operations of a training step, and the peak rate of this machine.

Counted as in PaLM (Chowdhery et al., 2022, appendix B): only matrix products, two operations per multiply-add, and the
backward pass as twice the forward pass. Padding and recomputed values are not counted.
"""

import time

import torch
from torch import Tensor

from models.config import EncoderConfig
from training.run.precision import Precision

SIDE = {"cpu": 1024, "cuda": 8192}
"""Size of the square matrices whose product measures the peak; it takes a fraction of a second."""
REPEATS = 5


def training_flops(config: EncoderConfig, lengths: Tensor, masked: int) -> float:
    """Return the operations for rows of `lengths` [B] tokens, forward and backward; `masked` tokens are predicted."""
    width, tokens = config.hidden_size, int(lengths.sum())
    layer = 4 * width * width + 2 * width * config.intermediate_size  # weights per token
    attention = 2 * width * float((lengths.double() ** 2).sum())  # multiply-adds of attention
    head = masked * width * (config.vocab_size + width)
    return 3 * 2 * (config.num_hidden_layers * (tokens * layer + attention) + head)


def matmul_peak(precision: Precision, device: torch.device) -> float:
    """Return the operations per second of a large matrix product on `device`: the best of REPEATS runs."""
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
    """Wait until a GPU has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
