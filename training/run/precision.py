"""The arithmetic of a training step: the number format, and the attention kernel that trains fastest.

bf16 halves the memory traffic of activations. It doubles the rate of matrix products on processors that support it
(AVX-512 BF16, AMX, every recent GPU). Weights, gradients, optimizer and losses stay in fp32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from training.run.progress import tell

Precision = Literal["fp32", "bf16"]


def check_precision(precision: Precision, device: str) -> None:
    """Print a warning if bf16 is only emulated, which is slower than fp32."""
    if precision == "bf16" and not has_bf16(device):
        tell("precision is bf16, which this processor only emulates; fp32 is faster here")


def has_bf16(device: str) -> bool:
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def arithmetic(precision: Precision, device: str = "cpu") -> Iterator[None]:
    """Run forward passes inside the block in `precision`; backward passes follow them."""
    import torch  # imported here, because recipes name a precision without needing torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    kernels = {
        "cpu": [SDPBackend.MATH],  # two batched products: the backward pass of the fused kernel takes six times as long
        "cuda": [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],  # the flash kernel supports no mask
    }
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # otherwise MATH converts to fp32 and back, on CPU too
    with sdpa_kernel(kernels[device]), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield
