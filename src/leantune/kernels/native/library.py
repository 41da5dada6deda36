"""Load the C kernels from the library that is built with the package (`csrc/`).

They compute bf16 on the CPU, where torch's own operators spend most of a step moving activations. The library has a
version for each of several instruction sets. Without it, or on a processor without these, torch computes everything.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from leantune.errors import LeantuneError, UsageError
from leantune.kernels.interface import SWITCH

HIGHEST = "LEANTUNE_KERNELS"
"""Environment variable: the highest of `LEVELS` that may be used."""
LEVELS = ("none", "v3", "avxvnni", "avx512", "amx")
"""Instruction sets, in the order of `csrc/dispatch.c`."""
FILE = Path(__file__).with_name("native_kernels.so")

_Structure = TypeVar("_Structure", bound=type[ctypes.Structure])
_Extent = tuple[int, int]
"""Offset and size in bytes."""


class _Place(ctypes.Structure):
    """``place`` of ``structures.c``."""

    _fields_ = (
        ("structure", ctypes.c_char_p),
        ("field", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


@dataclass(frozen=True, slots=True)
class Library:
    """The functions of the library for one instruction set."""

    file: ctypes.CDLL
    level: str
    """One of `LEVELS`."""

    def function(self, name: str) -> Callable[..., int]:
        """The kernel called ``name`` for this instruction set."""
        found: Callable[..., int] = getattr(self.file, f"{name}_{self.level}")
        return found

    def blocks_are_fast(self) -> bool:
        """Whether its bf16 products are faster than torch's."""
        return bool(self.function("blocks_are_fast")())

    def multiplies_bytes(self) -> bool:
        """Whether its int8 products are faster than its bf16 products."""
        return bool(self.function("multiplies_bytes")())


@dataclass(frozen=True, slots=True)
class LoadedLibrary:
    """The kernels for this machine, or why there are none."""

    library: Library | None
    reason: str = ""


@lru_cache(maxsize=1)
def kernels() -> LoadedLibrary:
    """Load the kernels once.

    Raises:
        UsageError: if `HIGHEST` is not one of `LEVELS`.
    """
    highest = os.environ.get(HIGHEST, LEVELS[-1])
    if highest not in LEVELS:
        raise UsageError(f"{HIGHEST} must be one of {', '.join(LEVELS)}. Got {highest!r} instead")
    if os.environ.get(SWITCH) == "0":
        return LoadedLibrary(None, f"{SWITCH}=0")
    if highest == "none":
        return LoadedLibrary(None, f"{HIGHEST}=none")
    return load_kernels(highest)


def load_kernels(highest: str) -> LoadedLibrary:
    """Load the best kernels for this machine up to the level ``highest``."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return LoadedLibrary(None, f"no kernels for {system} on {machine}")
    if not FILE.is_file():
        lacks = "it was built without a C compiler (GCC 11 or newer)"
        return LoadedLibrary(None, f"no kernels in this package: {lacks}")
    try:
        file = ctypes.CDLL(str(FILE))
    except OSError as error:
        return LoadedLibrary(None, str(error))
    level = LEVELS[file.best_level(LEVELS.index(highest))]
    if level == "none":
        return LoadedLibrary(None, "no kernels for this processor: it lacks parts of x86-64-v3 (AVX2, FMA)")
    return LoadedLibrary(Library(file, level))


def call(function: str, arguments: ctypes.Structure) -> None:
    """Run one kernel; other Python threads run meanwhile.

    Raises:
        MemoryError: if there is no memory for its buffers.
    """
    library = kernels().library
    assert library is not None, f"native {function}: {kernels().reason}"
    if library.function(function)(ctypes.byref(arguments)) != 0:
        raise MemoryError(f"native {function}: no memory for its buffers")


MIRRORS: dict[str, type[ctypes.Structure]] = {}
"""The structures of `csrc/kernels.h`, by their names there."""


def mirrors(structure: str) -> Callable[[_Structure], _Structure]:
    """Class decorator: declare that the class mirrors this structure of `csrc/kernels.h`.

    Raises:
        LeantuneError: if the library lays out the fields differently.
    """

    def compare(mirror: _Structure) -> _Structure:
        MIRRORS[structure] = mirror
        library = kernels().library
        if library is not None:
            _compare(structure, mirror, structures_of(library.file).get(structure, {}))
        return mirror

    return compare


@lru_cache(maxsize=1)
def structures_of(file: ctypes.CDLL) -> dict[str, dict[str, _Extent]]:
    """Offsets and sizes of the fields of the library's structures; the name ``""`` means the whole structure."""
    file.structure_places.restype = ctypes.POINTER(_Place)
    file.num_structure_places.restype = ctypes.c_int64
    found: dict[str, dict[str, _Extent]] = {}
    for place in file.structure_places()[: file.num_structure_places()]:
        fields = found.setdefault(place.structure.decode(), {})
        fields[place.field.decode() if place.field else ""] = (place.offset, place.size)
    return found


def _compare(structure: str, mirror: Any, expected: dict[str, _Extent]) -> None:
    found = {"": (0, ctypes.sizeof(mirror))}
    for name, *_ in mirror._fields_:
        field = getattr(mirror, name)
        found[name] = (field.offset, field.size)
    for name in {**expected, **found}:
        if expected.get(name) != found.get(name):
            what = f"field {name}" if name else "the whole"
            raise LeantuneError(
                f"{FILE}: structure {structure}: {what} is {_said(expected.get(name))}, for {mirror.__name__} "
                f"{_said(found.get(name))}: the library was built from other sources; install leantune again"
            )


def _said(extent: _Extent | None) -> str:
    return "missing" if extent is None else f"{extent[1]} bytes at {extent[0]}"
