"""Sessions with another library of kernels than the installed one; other tests' servers import this too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models import onnx_runtime

LEFT_OUT = Path("kernels that were left out")
"""No library: ONNX Runtime alone, as somebody with the graphs but without our kernels would run them."""


@contextmanager
def opening_with(library: Path) -> Iterator[None]:
    """Let sessions that are opened in this block take this library; none, if it is not there."""
    installed, onnx_runtime.KERNELS = onnx_runtime.KERNELS, library
    onnx_runtime.find_kernels.cache_clear()
    try:
        yield
    finally:
        onnx_runtime.KERNELS = installed
        onnx_runtime.find_kernels.cache_clear()
