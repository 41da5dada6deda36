"""How the process asks the system for memory; for the command line, before PyTorch is imported.

Activations of some megabytes are freed and asked for again thousands of times a second, and every page that the
system maps anew costs a fault.
"""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""


def spare_page_faults() -> None:
    """Keep freed memory, and take new memory in huge pages where the system gives them on request.

    Kept memory saves about a tenth of a CPU training step and a quarter of a prediction; huge pages save half a
    second of the first step of RoBERTa-base (docs/speed.md). The first needs glibc.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
