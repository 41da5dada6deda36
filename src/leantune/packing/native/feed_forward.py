"""A feed-forward block of a layer with fewer passes over what lies between its layers.

Without a gradient in bf16 all of it is one pass (`dense.c`). In int8 both products and GELU are one (`int8.c`), and so
are those of the backward pass and GELU's slope; norm and residual are in the same graph node, so that no sum of two
gradients is a pass of its own.

T packed tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from leantune.packing.native.dense import can_multiply, feed_forward
from leantune.packing.native.int8 import Int8Linear, rounding_of
from leantune.packing.native.norm import NormOfSum, can_normalise, is_frozen_norm
from leantune.packing.native.rounded import times_gelu_times, times_slope_times


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """Two modules that transformers calls one after the other; the second computes for both where it can."""

    first: Any
    """GELU(dense(x)): a `GeluLayer`."""
    last: Any
    """LayerNorm(dropout(dense(y)) + x): a `ResidualBlock`."""

    def computes(self, x_TD: Tensor) -> bool:
        """Whether the first module leaves ``x_TD`` to the second, here and now."""
        return self._is_one_pass(x_TD) or self.is_rounded(x_TD)

    def whole(self, x_TD: Tensor) -> Tensor:
        """The whole block, if it `computes`: ``(..., D)`` to ``(..., D)``."""
        first, last = self.layers
        if not self.is_rounded(x_TD):
            return feed_forward(x_TD, first, last, self.last.LayerNorm)
        norm = self.norm()
        flat = x_TD.reshape(-1, x_TD.shape[-1]).contiguous()
        if torch.is_grad_enabled():
            out: Tensor = _RoundedFeedForward.apply(flat, first, last, norm)  # type: ignore[no-untyped-call]
        else:
            _, product = times_gelu_times(
                flat, first.rounded.by_row, first.bias, last.rounded.by_row, keeps=False
            )
            out = norm.of_sum(product, flat)
        return out.view(x_TD.shape)

    def _is_one_pass(self, x_TD: Tensor) -> bool:
        block = self.last
        drops = block.dropout.training and block.dropout.p > 0
        return not drops and can_multiply(self.layers, x_TD) and is_frozen_norm(block.LayerNorm, x_TD)

    def is_rounded(self, x_TD: Tensor) -> bool:
        """Whether it is computed in int8, here and now."""
        rounding = rounding_of(self.layers, x_TD)
        has_biases = rounding is not None and all(layer.bias is not None for layer in rounding)
        return has_biases and can_normalise(self.last.LayerNorm, x_TD)

    def norm(self) -> NormOfSum:
        """What is behind the last layer, with its bias, and a new mask where it drops."""
        return NormOfSum.of(self.last.LayerNorm, self.last.dense.bias, self.last.dropout)

    @property
    def layers(self) -> tuple[Any, Any]:
        """Both linear layers."""
        return self.first.dense, self.last.dense


class _RoundedFeedForward(torch.autograd.Function):
    """Stored for the backward pass: what comes before GELU, and the sum before the norm."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, first: Int8Linear, last: Int8Linear, norm: NormOfSum) -> Tensor:
        before, product = times_gelu_times(
            x_TD, first.rounded.by_row, first.bias, last.rounded.by_row, keeps=True
        )
        out, total, stats = norm.forward(product, x_TD, into=product)
        ctx.save_for_backward(before, total, stats)
        ctx.layers, ctx.norm = (first, last), norm
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        before, total, stats = ctx.saved_tensors
        first, last = ctx.layers
        grad, grad_x = ctx.norm.backward(total, stats, grad_outputs[0])
        columns = first.rounded.by_column
        times_slope_times(grad, last.rounded.by_column, before, first.bias, columns, onto=grad_x)
        return grad_x, None, None, None
