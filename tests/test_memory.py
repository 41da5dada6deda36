"""The heap of a process of leantune: what is freed is kept, while training in huge pages where the system has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(not THP.is_file(), reason="this system has no transparent huge pages")

SCRIPT = """
import ctypes, resource, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
from leantune.system.memory import keep_freed_memory, use_huge_pages
keep_freed_memory()
if int(sys.argv[2]):
    use_huge_pages()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
places = [libc.malloc(16 << 20) for _ in range(8)]
for place in places:
    ctypes.memset(place, 1, 16 << 20)
for place in places:
    libc.free(place)
lines = open("/proc/self/smaps").read().splitlines()
start = next(i for i, line in enumerate(lines) if line.endswith("[heap]"))
size, rss, flags = (next(line for line in lines[start:] if line.startswith(key)) for key in ("Size", "Rss", "VmFlags"))
print(size.split()[1], rss.split()[1], "hg" in flags.split())
"""


def heap_after(limit: int, *, huge: bool) -> tuple[int, int, bool]:
    """Size and resident part of the heap in kB, and whether it asks for huge pages."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(limit), str(int(huge))],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    size, resident, is_huge = done.stdout.split()
    return int(size), int(resident), is_huge == "True"


def test_the_heap_keeps_what_is_freed_and_asks_for_huge_pages():
    size, resident, is_huge = heap_after(0, huge=True)
    assert is_huge
    assert resident >= 128 << 10  # all of it was freed
    assert resident < 256 << 10 < size  # what was not written takes no memory


def test_where_address_space_is_limited_none_is_taken_ahead():
    size, resident, is_huge = heap_after(1 << 30, huge=True)
    assert not is_huge
    assert 128 << 10 <= resident <= size < 256 << 10


def test_without_huge_pages_what_is_freed_is_kept_too():
    size, resident, is_huge = heap_after(0, huge=False)
    assert not is_huge
    assert 128 << 10 <= resident <= size < 256 << 10
