"""How the process asks the system for memory, and how it hears that there is none."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was not enough; PyTorch has a class of error for GPUs only, on a CPU the text says so."""
    if isinstance(error, RuntimeError):
        return any(
            words in str(error).lower() for words in ("out of memory", "allocate memory", "alloc_failed")
        )
    return isinstance(error, MemoryError)


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of returning it to the system at once.

    Activations of some megabytes are freed and asked for again thousands of times a second; mapping each anew costs
    about a tenth of a CPU training step and a quarter of a prediction in page faults (docs/speed.md). Elsewhere than
    on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
