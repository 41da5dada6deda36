"""Dropout of bf16 whose mask is never stored: both passes draw it from the same key (`dropout.c`)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.library import call, mirrors, serves

LEVELS = 1 << 16
"""Values of the random number that decides about an element."""
COUNT_MULTIPLE = 32
"""Elements: the kernel takes the two halves of a random dword for two registers of them."""

Key = tuple[int, int]


@mirrors("dropout_mask")
class Mask(ctypes.Structure):
    """``dropout_mask`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (("kept_levels", ctypes.c_uint32), ("key", ctypes.c_uint32 * 2))

    @classmethod
    def of(cls, p: float, key: Key) -> Mask:
        """The mask of dropout ``p`` that ``key`` draws; p is 0 for none."""
        return cls(native_levels(p), key)


@mirrors("dropout")
class _Arguments(ctypes.Structure):
    """``dropout`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("mask", Mask),
        ("num_threads", ctypes.c_int64),
    )


def native_levels(p: float) -> int:
    """Random numbers below this keep their element: the share that is nearest to ``1 - p``. The kernels
    multiply with an fp32 number of their own, which makes the expectation exact.
    """
    return max(1, round(LEVELS * (1 - p)))


def can_drop(x: Tensor) -> bool:
    """Whether the kernel takes ``x``."""
    return x.numel() % COUNT_MULTIPLE == 0 and serves(x)


class NativeDropout(torch.autograd.Function):
    """Dropout of a whole tensor as a graph node."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, key: Key) -> Tensor:
        ctx.mask = Mask.of(p, key)
        return _dropped(x, ctx.mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        return _dropped(grad_outputs[0], ctx.mask), None, None


def _dropped(x: Tensor, mask: Mask) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    arguments = _Arguments(
        x=x.data_ptr(),
        out=out.data_ptr(),
        count=x.numel(),
        mask=mask,
        num_threads=torch.get_num_threads(),
    )
    call("dropout_apply", arguments)
    return out
