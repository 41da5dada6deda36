"""Call a kernel in C with any memory, without what leantune puts before it; the library says where fields are."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from leantune.kernels.native.library import LEVELS, Library, kernels, load_kernels, structures_of

GUARD = 64
"""Numbers before and behind what a kernel may write."""


def levels_here() -> list[str]:
    """Those of this machine, up to the one that the environment allows."""
    best = kernels().library
    allowed = LEVELS[1 : LEVELS.index(best.level) + 1] if best else ()
    return [name for name in allowed if (found := load_kernels(name).library) and found.level == name]


class Argument:
    """A structure of `csrc/kernels.h`; what is not given is zero."""

    def __init__(self, structure: str, **values: Any) -> None:
        library = kernels().library
        assert library is not None
        self.places = structures_of(library.file)[structure]
        self.memory = ctypes.create_string_buffer(self.places[""][1])
        self.kept: list[Any] = []
        for name, value in values.items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        offset, size = self.places[name]
        content = self._bytes(value, size)
        assert len(content) == size, f"{name} has {size} bytes"
        ctypes.memmove(ctypes.addressof(self.memory) + offset, content, size)
        self.kept.append(value)

    def _bytes(self, value: Any, size: int) -> bytes:
        if isinstance(value, Argument):
            return bytes(value.memory)
        if isinstance(value, Guarded):
            value = value.tensor
        if isinstance(value, Tensor):
            value = value.data_ptr()
        if isinstance(value, Array):
            value = ctypes.addressof(value.memory)
        if isinstance(value, tuple):
            return b"".join(self._bytes(each, size // len(value)) for each in value)
        if isinstance(value, float):
            return struct.pack("f", value)
        return int(value or 0).to_bytes(size, "little", signed=True)

    def number(self, name: str) -> int:
        """A field that the kernel has written."""
        offset, size = self.places[name]
        return int.from_bytes(self.memory.raw[offset : offset + size], "little", signed=True)


class Array:
    """Structures one behind the other, or their addresses."""

    def __init__(self, arguments: Sequence[Argument], *, of_addresses: bool = False) -> None:
        self.kept = arguments
        if of_addresses:
            content = b"".join(ctypes.addressof(each.memory).to_bytes(8, "little") for each in arguments)
        else:
            content = b"".join(bytes(each.memory) for each in arguments)
        self.memory = ctypes.create_string_buffer(content, max(1, len(content)))


@dataclass
class Guarded:
    """Memory for what a kernel writes, in the midst of numbers that it must leave alone.

    Args:
        shape: of ``tensor``.
        dtype: bf16 unless something else is said.
        content: what it holds before; NaN unless something else is said.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.bfloat16
    content: Tensor | None = None
    tensor: Tensor = field(init=False)

    def __post_init__(self) -> None:
        count = int(np.prod(self.shape))
        filling = float("nan") if self.dtype.is_floating_point else 77
        self._all = torch.full((count + 2 * GUARD,), filling, dtype=self.dtype)
        self._all[:GUARD] = self._all[GUARD + count :] = 77
        self.tensor = self._all[GUARD : GUARD + count].view(self.shape)
        if self.content is not None:
            self.tensor.copy_(self.content)

    def check(self) -> Tensor:
        """What was written, if nothing was written beside it."""
        count = int(np.prod(self.shape))
        assert (self._all[:GUARD] == 77).all()
        assert (self._all[GUARD + count :] == 77).all()
        return self.tensor


def run(library: Library, kernel: str, argument: Argument) -> None:
    """Call it."""
    assert library.function(kernel)(argument.memory) == 0


def at_odd_place(x: Tensor) -> Tensor:
    """The same numbers where no cache line begins."""
    memory = torch.empty(x.numel() + 3, dtype=x.dtype)
    memory[3:] = x.flatten()
    return memory[3:].view(x.shape)


def random_bits(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """``random_bits`` of `csrc/vectors.h`, for each of the counters of its lanes."""
    x = counters.astype(np.uint32) + np.uint32(key[0])
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) + np.uint32(key[1])
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def dropout_factors(count: int, kept_levels: int, key: tuple[int, int]) -> Tensor:
    """What each of ``count`` elements is multiplied by, as `csrc/rows.h` has it: 32 share sixteen random dwords."""
    place = np.arange(count)
    bits = random_bits(place // 32 * 16 + place % 16, key)
    levels = np.where(place % 32 < 16, bits & 0xFFFF, bits >> 16)
    return torch.from_numpy(np.where(levels < kept_levels, 65536 / kept_levels, 0.0)).float()
