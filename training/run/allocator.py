"""The allocator of a training process: it keeps freed memory for the next step.

By default, glibc maps new memory for each tensor above 32 MB, and unmaps it when the tensor is freed. So the logits
over a vocabulary cause a page fault per page, several times per step. Measured, this takes a third of a step.
"""

import ctypes

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1
GROWTH = 1 << 26  # bytes


def keep_pages() -> bool:
    """Make this process keep the memory that it frees; return whether its C library can do so (glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*pair) for pair in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, GROWTH)))
