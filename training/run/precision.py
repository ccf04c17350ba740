"""Arithmetic of a training step: the number format, and the attention kernel that trains fastest.

bf16 halves the traffic of activations and doubles the rate of matrix products on processors that have it (AVX-512 BF16,
AMX, every recent GPU); weights, their gradients, the optimizer and the losses stay in fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Precision = Literal["fp32", "bf16"]


@contextmanager
def arithmetic(precision: Precision, device: str = "cpu") -> Iterator[None]:
    """Forward passes inside run in `precision`; backward passes follow the forward's."""
    import torch  # here, since recipes name a precision before there is anything to compute
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {
        "cpu": [SDPBackend.MATH],  # two batched products: the backward pass of the fused kernel takes six times as long
        "cuda": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],  # the flash kernel takes no mask
    }
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # else MATH converts to fp32 and back, on CPU too
    with sdpa_kernel(kernels[device]), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield
