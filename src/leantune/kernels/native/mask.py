"""Dropout whose mask is never stored: the kernels draw it from the same key both ways (``rows.h``)."""

from __future__ import annotations

import ctypes

from torch import nn

from leantune.kernels.native.library import mirrors
from leantune.packing.dropout import LEVELS, PooledDropout

Key = tuple[int, int]


@mirrors("dropout_mask")
class Mask(ctypes.Structure):
    """``dropout_mask`` of ``csrc/kernels.h``."""

    _fields_ = (("kept_levels", ctypes.c_uint32), ("key", ctypes.c_uint32 * 2))

    @classmethod
    def of(cls, p: float, key: Key) -> Mask:
        """The mask of dropout ``p`` that ``key`` draws; p is 0 for none."""
        return cls(kept_levels(p), key)


def mask_of(dropout: nn.Module | None) -> Mask:
    """A new mask where ``dropout`` drops; else one that keeps all."""
    if dropout is None or not dropout.training:
        return Mask.of(0.0, (0, 0))
    assert isinstance(dropout, PooledDropout)
    return Mask.of(dropout.p, dropout.stream.key() if dropout.p else (0, 0))


def kept_levels(p: float) -> int:
    """Random numbers below this keep their element: the share that is nearest to ``1 - p``. The kernels
    multiply with an fp32 number of their own, which makes the expectation exact.
    """
    return max(1, round(LEVELS * (1 - p)))
