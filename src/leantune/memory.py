"""How the process asks the system for memory; for the command line."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


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
