"""Products with matrices whose rows are quantised to int8 (`int8.c`).

Rows of activations and rows of W are rounded, each with a scale of its own (Dettmers et al., 2022, LLM.int8,
arXiv 2208.07339, vector-wise quantisation), and their products are summed exactly. The backward pass multiplies rows of
the gradient with columns of W in the same way.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from leantune.kernels.native.library import call, mirrors

WIDTH_MULTIPLE = 16
"""D and F: columns that the kernels take at once."""
SIDE, STEP = 32, 64
"""What F and D of a rounded weight are filled up to: ``tiles.h``."""

UPDATE_MULTIPLE = 32
"""Numbers of bf16 that a product sums over at once: ``DEPTH`` of ``vectors.h``."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("int8_weight")
class RoundingArguments(ctypes.Structure):
    """``int8_weight`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("w", _Pointer),
        *((name, _Count) for name in ("F", "D")),
        *((name, _Pointer) for name in ("panels", "scales")),
        ("num_threads", _Count),
    )


@mirrors("matrix")
class MatrixArgument(ctypes.Structure):
    """``matrix`` of ``csrc/kernels.h``."""

    _fields_ = (
        *((name, _Pointer) for name in ("panels", "scales")),
        *((name, _Count) for name in ("rows", "width")),
    )


@mirrors("product")
class ProductArguments(ctypes.Structure):
    """``product`` of ``csrc/kernels.h``."""

    _fields_ = (
        ("x", _Pointer),
        ("T", _Count),
        ("first", MatrixArgument),
        *((name, _Pointer) for name in ("gelu_bias", "before")),
        ("takes_slope", _Count),
        ("last", MatrixArgument),
        *((name, _Pointer) for name in ("bias", "low", "up")),
        ("R", _Count),
        ("out", _Pointer),
        ("adds", _Count),
        ("num_threads", _Count),
    )


Factors = tuple[Tensor, Tensor]
"""Factors in bf16 of what is added to a product: ``(T, R)``, with rows of any numbers up to a multiple of `SIDE`, and
``(F, R)``; R is a multiple of `UPDATE_MULTIPLE`."""


@dataclass(frozen=True, slots=True)
class Int8Matrix:
    """A matrix ``(F, D)`` whose rows are rounded, in the order in which the kernel multiplies it."""

    shape: tuple[int, int]
    """F, D."""
    panels: Tensor
    """Bytes of all rows: F times D, both filled up."""
    scales: Tensor
    """``(F,)`` fp32: what a byte of the row counts."""

    @classmethod
    def of(cls, matrix_FD: Tensor) -> Int8Matrix:
        """Round a bf16 matrix; F and D are multiples of 16."""
        matrix_FD = _checked(matrix_FD)
        rows, width = matrix_FD.shape
        panels = torch.empty((rows + -rows % SIDE) * (width + -width % STEP), dtype=torch.uint8)
        scales = torch.empty(rows)
        arguments = RoundingArguments(
            w=matrix_FD.data_ptr(),
            F=rows,
            D=width,
            panels=panels.data_ptr(),
            scales=scales.data_ptr(),
            num_threads=torch.get_num_threads(),
        )
        call("round_weight", arguments)
        return cls((rows, width), panels, scales)

    def times(
        self,
        x_TD: Tensor,
        bias_F: Tensor | None = None,
        *,
        update: Factors | None = None,
        onto: Tensor | None = None,
    ) -> Tensor:
        """The product with each row of x, rounded, plus bias, bf16, and update: ``(T, D)`` bf16 to ``(T, F)`` bf16; in
        the memory of ``onto`` and added to it, if that is given.
        """
        x_TD = _checked(x_TD)
        rows, width = x_TD.shape
        assert width == self.shape[1], f"{width} columns for a matrix of {self.shape[1]}"
        out = torch.empty(rows, self.shape[0], dtype=torch.bfloat16) if onto is None else onto
        arguments = ProductArguments(
            x=x_TD.data_ptr(),
            T=rows,
            last=self.as_argument(),
            bias=_address(bias_F, self.shape[:1]),
            out=_address(out, (rows, self.shape[0])),
            adds=onto is not None,
            num_threads=torch.get_num_threads(),
        )
        if update is not None:
            low, up = update
            rank = up.shape[1]
            assert rank % UPDATE_MULTIPLE == 0, rank
            arguments.low = _address(low, (rows + -rows % SIDE, rank))
            arguments.up, arguments.R = _address(up, (self.shape[0], rank)), rank
        call("multiply_rounded", arguments)
        return out

    def as_argument(self) -> MatrixArgument:
        """What the kernels are given."""
        return MatrixArgument(self.panels.data_ptr(), self.scales.data_ptr(), *self.shape)


def _address(tensor: Tensor | None, shape: tuple[int, ...]) -> int | None:
    """Where the kernel finds a tensor of bf16; None, NULL, without one."""
    if tensor is None:
        return None
    assert (tensor.dtype, tensor.shape, tensor.is_contiguous()) == (torch.bfloat16, shape, True)
    return tensor.data_ptr()


def _checked(x: Tensor) -> Tensor:
    """``x`` as the kernels read memory: rows of bf16, one behind the other."""
    assert (x.dtype, x.dim(), x.shape[1] % WIDTH_MULTIPLE) == (torch.bfloat16, 2, 0)
    return x.contiguous()
