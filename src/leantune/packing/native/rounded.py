"""Products with matrices whose rows are rounded to int8 (`int8.c`).

Rows of activations and rows of W are rounded, each with a scale of its own (Dettmers et al., 2022, LLM.int8,
arXiv 2208.07339, vector-wise quantisation), and their products are summed exactly. The backward pass multiplies rows of
the gradient with columns of W in the same way.

Shape letters: T tokens, D width of the input, F of the output.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from leantune.packing.native.library import call, mirrors
from leantune.packing.side_by_side import as_one

WIDTH_MULTIPLE = 16
"""D and F: columns that the kernels take at once."""
SIDE, STEP = 32, 64
"""What F and D of a rounded weight are filled up to: ``tiles.h`` and ``byte_tiles.h``."""

UPDATE_MULTIPLE = 32
"""Numbers of bf16 that a product sums over at once: ``DEPTH`` of ``vectors.h``."""

_Pointer, _Count = ctypes.c_void_p, ctypes.c_int64


@mirrors("int8_weight")
class _Weight(ctypes.Structure):
    """``int8_weight`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        ("w", _Pointer),
        *((name, _Count) for name in ("F", "D")),
        *((name, _Pointer) for name in ("panels", "scales")),
        ("num_threads", _Count),
    )


@mirrors("matrix")
class MatrixArgument(ctypes.Structure):
    """``matrix`` of ``csrc/kernels.h``, field by field."""

    _fields_ = (
        *((name, _Pointer) for name in ("panels", "scales")),
        *((name, _Count) for name in ("rows", "width")),
    )


@mirrors("product")
class _Product(ctypes.Structure):
    """``product`` of ``csrc/kernels.h``, field by field."""

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
        arguments = _Weight(
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
        return _multiply(x_TD, self, bias_F, update=update, onto=onto)

    def as_argument(self) -> MatrixArgument:
        """What the kernels are given."""
        return MatrixArgument(self.panels.data_ptr(), self.scales.data_ptr(), *self.shape)


@dataclass(frozen=True, slots=True)
class Activation:
    """What is between two products: GELU, or its slope."""

    first: Int8Matrix
    """``(F, D)``, the first factor."""
    bias: Tensor
    """``(F,)`` bf16, added before GELU."""
    before: Tensor | None
    """What the first product was, or is to be written to, as `blocks_of` has it; None: nobody wants it."""
    takes_slope: bool
    """Whether the first product is multiplied by the slope of GELU at ``before + bias``, for a backward pass."""


def times_gelu_times(
    x_TD: Tensor, first: Int8Matrix, bias_F: Tensor, last: Int8Matrix, *, keeps: bool
) -> tuple[Tensor | None, Tensor]:
    """``last(GELU(first(x) + bias))``, rounded again before the last product: ``(T, D)`` bf16 to ``(T, D)`` bf16.

    Returns:
        ``first(x)`` if ``keeps`` says so, for `times_slope_times`, as `blocks_of` has it, and the result.
    """
    before = torch.empty(blocks_of(x_TD.shape[0], first.shape[0]), dtype=torch.bfloat16) if keeps else None
    return before, _multiply(x_TD, last, None, Activation(first, bias_F, before, takes_slope=False))


def times_slope_times(
    x_TD: Tensor,
    first: Int8Matrix,
    before: Tensor,
    bias_F: Tensor,
    last: Int8Matrix,
    *,
    onto: Tensor | None = None,
) -> Tensor:
    """``last(first(x) * slope of GELU at (before + bias))``: ``(T, D)`` bf16 to ``(T, D)`` bf16; ``onto`` as in
    `Int8Matrix.times`, which may be ``x_TD``.
    """
    return _multiply(x_TD, last, None, Activation(first, bias_F, before, takes_slope=True), onto=onto)


def blocks_of(rows: int, width: int) -> tuple[int, int, int, int]:
    """The shape of ``(rows, width)`` numbers in blocks, which are near to each other: those of some rows and columns
    first, those of the same rows and the next columns behind; rows and columns filled up.
    """
    return -(-rows // SIDE), -(-width // SIDE), SIDE, SIDE


def _multiply(
    x_TD: Tensor,
    last: Int8Matrix,
    bias: Tensor | None,
    activation: Activation | None = None,
    update: Factors | None = None,
    onto: Tensor | None = None,
) -> Tensor:
    x_TD = _checked(x_TD)
    rows, width = x_TD.shape
    out = torch.empty(rows, last.shape[0], dtype=torch.bfloat16) if onto is None else onto
    arguments = _Product(
        x=x_TD.data_ptr(),
        T=rows,
        last=last.as_argument(),
        bias=_address(bias, last.shape[:1]),
        out=_address(out, (rows, last.shape[0])),
        adds=onto is not None,
        num_threads=torch.get_num_threads(),
    )
    if activation is not None:
        first = activation.first
        assert first.shape[0] == last.shape[1], f"{first.shape[0]} columns for a matrix of {last.shape[1]}"
        arguments.first, arguments.takes_slope = first.as_argument(), activation.takes_slope
        arguments.gelu_bias = _address(activation.bias, first.shape[:1])
        arguments.before = _address(activation.before, blocks_of(rows, first.shape[0]))
    if update is not None:
        low, up = update
        rank = up.shape[1]
        assert rank % UPDATE_MULTIPLE == 0, rank
        arguments.low = _address(low, (rows + -rows % SIDE, rank))
        arguments.up, arguments.R = _address(up, (last.shape[0], rank)), rank
    wanted = (last if activation is None else activation.first).shape[1]
    assert width == wanted, f"{width} columns for a matrix of {wanted}"
    call("multiply_rounded", arguments)
    return out


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


class Int8Weight:
    """A frozen W, rounded by rows for the one pass and by columns for the other, each when it is first wanted.

    Args:
        weights: the parts of W ``(F, D)``, one below the other, bf16.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = list(weights)

    @cached_property
    def by_row(self) -> Int8Matrix:
        """W."""
        return Int8Matrix.of(as_one(self.weights, 0))

    @cached_property
    def by_column(self) -> Int8Matrix:
        """W transposed."""
        return Int8Matrix.of(as_one(self.weights, 0).t())

    def forward(self, x_TD: Tensor, bias_F: Tensor | None = None, *, update: Factors | None = None) -> Tensor:
        """``W x + b`` and an update for each token: ``(T, D)`` bf16 to ``(T, F)`` bf16; b bf16."""
        return self.by_row.times(x_TD, bias_F, update=update)

    def backward(self, grad_TF: Tensor, *, onto: Tensor | None = None) -> Tensor:
        """The gradient of x ``(T, D)`` bf16, of that of the output ``(T, F)``; ``onto``: see `Int8Matrix.times`."""
        return self.by_column.times(grad_TF, onto=onto)
