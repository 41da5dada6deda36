"""Dropout with masks that are windows of a pool instead of Bernoulli draws.

On the CPU ``torch.bernoulli_`` is serial and takes more than a third of a training step. Here a pool of random masks is
drawn once for several steps. Each mask is a window of the pool that begins at a random position: elements of one mask
are independent, and applying a mask costs one multiplication.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

POOL_SIZE = 1 << 23
"""Elements per pool."""
LEVELS = 1 << 16
"""Number of values of the random number that decides about an element."""
MASKS_OF_POOL = 1024
"""Masks taken from one pool, enough for some tens of steps."""
SMALL_MASK = 1 << 18
"""Masks up to this number of elements are drawn separately: a pool only for them would take longer."""


def kept_value(p: float, dtype: torch.dtype) -> float:
    """Factor for kept elements: 1 / (1 - p), rounded to ``dtype``."""
    return torch.tensor(1 / (1 - p), dtype=dtype).item()


def kept_levels(p: float, dtype: torch.dtype) -> int:
    """Random numbers below this keep their element; chosen so that the expectation is 1 in spite of rounding.

    In bf16 the resulting probability is within 0.004 of ``p``.
    """
    return round(LEVELS / kept_value(p, dtype))


@dataclass(slots=True)
class _Pool:
    """Random numbers, the masks made from them, and the start of each window."""

    number: int
    levels: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.uint64]
    masks: dict[tuple[float, torch.dtype], Tensor] = field(default_factory=dict)

    @classmethod
    def draw(cls, seed: list[int], number: int) -> _Pool:
        bits = np.random.SFC64(np.random.SeedSequence([*seed, number]))
        return cls(number, bits.random_raw(POOL_SIZE // 4).view(np.uint16), bits.random_raw(MASKS_OF_POOL))

    def window(self, place: int, count: int, p: float, dtype: torch.dtype) -> Tensor:
        if (p, dtype) not in self.masks:
            self.masks[p, dtype] = _mask_of(self.levels, p, dtype)
        start = int(self.starts[place]) % (POOL_SIZE - count + 1)
        return self.masks[p, dtype][start : start + count]


def _mask_of(levels: npt.NDArray[np.uint16], p: float, dtype: torch.dtype) -> Tensor:
    # numpy multiplies the bits of the value: torch converts from bytes without vector instructions
    value = torch.tensor([kept_value(p, dtype)], dtype=dtype)
    bits = value.view(_UNSIGNED[value.element_size()]).numpy()
    mask = np.multiply(levels < kept_levels(p, dtype), bits, dtype=bits.dtype)
    return torch.from_numpy(mask).view(dtype)


_UNSIGNED = {2: torch.uint16, 4: torch.uint32, 8: torch.uint64}


class DropoutStream:
    """The generator of all dropout masks of a run; its state is saved in checkpoints."""

    def __init__(self, seed: int) -> None:
        self.reseed(seed, 0, 0)

    def reseed(self, seed: int, phase: int, rank: int) -> None:
        """Start the sequence of another phase or process of the same run."""
        self._seed = [seed, phase, rank]
        self._num_masks = 0
        self._pool: _Pool | None = None
        self._keys: tuple[int, npt.NDArray[np.uint64]] | None = None

    def mask(self, shape: tuple[int, ...], p: float, dtype: torch.dtype) -> Tensor:
        """A mask of ``shape`` and ``dtype`` to multiply with: 0 with probability about ``p``, else `kept_value`.

        It may share memory with other masks: do not write to it.
        """
        count = int(np.prod(shape))
        number, place = divmod(self._num_masks, MASKS_OF_POOL)
        self._num_masks += 1
        has_window = SMALL_MASK < count <= POOL_SIZE // 2  # a larger mask would have few possible starts
        if not has_window:
            bits = np.random.SFC64(np.random.SeedSequence([*self._seed, number, place]))
            levels = bits.random_raw((count + 3) // 4).view(np.uint16)[:count]
            return _mask_of(levels, p, dtype).view(shape)
        if self._pool is None or self._pool.number != number:
            self._pool = _Pool.draw(self._seed, number)
        return self._pool.window(place, count, p, dtype).view(shape)

    def key(self) -> tuple[int, int]:
        """Two 32-bit numbers from which a native kernel draws one mask, instead of `mask`."""
        number, place = divmod(self._num_masks, MASKS_OF_POOL)
        self._num_masks += 1
        if self._keys is None or self._keys[0] != number:
            bits = np.random.SFC64(np.random.SeedSequence([*self._seed, number, _KEYS]))
            self._keys = number, bits.random_raw(MASKS_OF_POOL)
        high, low = divmod(int(self._keys[1][place]), 1 << 32)
        return high, low

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {"seed": self._seed, "masks": self._num_masks}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self.reseed(*state["seed"])
        self._num_masks = state["masks"]


_KEYS = MASKS_OF_POOL
"""Marks the keys in the seed of their generator, in place of a large mask's number."""


class _PooledDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, stream: DropoutStream) -> Tensor:
        mask = stream.mask(tuple(x.shape), p, x.dtype)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (mask,) = ctx.saved_tensors
        return grad_outputs[0] * mask, None, None


class PooledDropout(nn.Module):
    """Drop-in for ``nn.Dropout`` with pooled masks on the CPU, and torch's own kernel on an accelerator.

    Args:
        p: probability of dropping an element, 0 <= p < 1.
        stream: generator of the masks.
    """

    def __init__(self, p: float, stream: DropoutStream) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be at least 0 and below 1. Got {p} instead.")
        self.p, self.stream = p, stream

    @property
    def current_p(self) -> float:
        """The current probability of dropping an element: 0 in evaluation mode."""
        return self.p if self.training else 0.0

    def forward(self, x: Tensor) -> Tensor:
        if self.current_p == 0:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.p)
        dropped: Tensor = _PooledDropout.apply(x, self.p, self.stream)  # type: ignore[no-untyped-call]
        return dropped

    def extra_repr(self) -> str:
        return f"p={self.p}"
