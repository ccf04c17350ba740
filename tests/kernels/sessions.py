"""Opens sessions with another library of kernels than the installed one; servers of other tests import this too."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from models import onnx_runtime

LEFT_OUT = Path("kernels that were left out")
"""No library: ONNX Runtime alone, as for a user who has the graphs but not our kernels."""


@contextmanager
def opening_with(library: Path) -> Iterator[None]:
    """Sessions that are opened in this block use this library, or none if the file is missing."""
    installed, onnx_runtime.KERNELS = onnx_runtime.KERNELS, library
    onnx_runtime.find_kernels.cache_clear()
    try:
        yield
    finally:
        onnx_runtime.KERNELS = installed
        onnx_runtime.find_kernels.cache_clear()
