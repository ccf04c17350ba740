"""The allocator of a training process: pages that a step gave back serve the next one.

glibc maps every tensor above 32 MB again and gives it back when it is freed. So the logits over a vocabulary are
faulted in page by page, several times a step: a third of a step, measured.
"""

import ctypes

# malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
NEVER = -1
GROWTH = 1 << 26  # bytes


def keep_pages() -> bool:
    """Let this process keep the memory it once had; return whether its C library can (glibc)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*pair) for pair in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, GROWTH)))
