"""Configures memory allocation and detects out-of-memory errors."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3)."""
_LARGEST_IN_HEAP = 32 << 20
"""Largest threshold for mmap(2) that glibc accepts, in bytes."""
_HEAP_AHEAD = 7 << 28
"""Address space reserved for the heap at once, in bytes, so that it can use huge pages."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out; PyTorch has no error class for it on CPUs, only messages."""
    if isinstance(error, RuntimeError):
        return any(
            words in str(error).lower() for words in ("out of memory", "allocate memory", "alloc_failed")
        )
    return isinstance(error, MemoryError)


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system at once; does nothing without glibc.

    Activations of a few megabytes are freed and allocated thousands of times per second. Mapping them anew each time
    costs about a tenth of a CPU training step and a quarter of a prediction in page faults (measured).
    """
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def use_huge_pages() -> None:
    """Use huge pages for the memory that `keep_freed_memory` keeps, if the system supports them.

    A training step uses hundreds of megabytes and takes 6 % less time (benchmarks/notebook). Getting these pages takes
    half a second, which does not pay off for predictions. Address space is reserved for the heap in advance, which
    takes memory only when written. This is not done if address space is limited.
    """
    libc = _glibc()
    if libc is None or _is_address_space_counted():
        return
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mallopt(_M_TOP_PAD, _HEAP_AHEAD)
    libc.free(libc.malloc(_LARGEST_IN_HEAP - mmap.PAGESIZE))  # more than is free: the heap grows
    libc.mallopt(_M_TOP_PAD, 128 << 10)  # the default
    for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
        if line.endswith("[heap]"):
            begin, end = (int(address, 16) for address in line.split()[0].split("-"))
            # only advice, so errors are ignored
            libc.madvise(begin, end - begin, mmap.MADV_HUGEPAGE)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") else None


def _is_address_space_counted() -> bool:
    import resource  # imported here because Windows lacks it and is refused with a message elsewhere

    limits = (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    overcommit = Path("/proc/sys/vm/overcommit_memory")  # 2: the system does not overcommit
    is_limited = any(resource.getrlimit(limit)[0] != resource.RLIM_INFINITY for limit in limits)
    return is_limited or (overcommit.is_file() and overcommit.read_text("ascii").strip() == "2")
