"""A feed-forward block of a layer with fewer passes over what lies between its layers.

Without a gradient in bf16 all of it is one pass (`dense.c`). In int8 both products and GELU are one (`int8.c`), and so
are those of the backward pass and GELU's slope.

T packed tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from leantune.packing.native.dense import can_multiply, feed_forward
from leantune.packing.native.int8 import Int8Linear, times_gelu_times, times_slope_times
from leantune.packing.native.norm import is_frozen_norm


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """Two modules that transformers calls one after the other; the second computes for both where it can."""

    first: nn.Module
    """GELU(dense(x)): a `GeluLayer`."""
    last: nn.Module
    """LayerNorm(dropout(dense(y)) + x): a `ResidualBlock`."""

    def computes(self, x_TD: Tensor) -> bool:
        """Whether the first module leaves ``x_TD`` to the second, here and now."""
        return self.is_one_pass(x_TD) or self.is_rounded(x_TD)

    def is_one_pass(self, x_TD: Tensor) -> bool:
        """Whether `one_pass` is for ``x_TD``."""
        last: Any = self.last
        drops = last.dropout.training and last.dropout.p > 0
        return not drops and can_multiply(self._layers, x_TD) and is_frozen_norm(last.LayerNorm, x_TD)

    def one_pass(self, x_TD: Tensor) -> Tensor:
        """The whole block: ``(..., D)`` to ``(..., D)``."""
        last: Any = self.last
        return feed_forward(x_TD, *self._layers, last.LayerNorm)

    def is_rounded(self, x_TD: Tensor) -> bool:
        """Whether `rounded` is for ``x_TD``."""
        return all(
            isinstance(layer, Int8Linear) and layer.rounds(x_TD) and layer.bias is not None
            for layer in self._layers
        )

    def rounded(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Both layers in int8, ``(..., D)`` to ``(..., D)``, and the last bias ``(D,)``, which is still to be added."""
        first, last = self._layers
        flat = x_TD.reshape(-1, x_TD.shape[-1])
        if torch.is_grad_enabled():
            out: Tensor = _RoundedFeedForward.apply(flat, first, last)  # type: ignore[no-untyped-call]
        else:
            _, out = times_gelu_times(
                flat, first.rounded.by_row, first.bias, last.rounded.by_row, keeps=False
            )
        return out.view(x_TD.shape), last.bias

    @property
    def _layers(self) -> tuple[Any, Any]:
        return self.first.dense, self.last.dense


class _RoundedFeedForward(torch.autograd.Function):
    """Stored for the backward pass: what comes before GELU."""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, first: Int8Linear, last: Int8Linear) -> Tensor:
        before, out = times_gelu_times(
            x_TD, first.rounded.by_row, first.bias, last.rounded.by_row, keeps=True
        )
        ctx.save_for_backward(before)
        ctx.layers = first, last
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (before,), (first, last) = ctx.saved_tensors, ctx.layers
        columns = first.rounded.by_column
        return (
            times_slope_times(grad_outputs[0], last.rounded.by_column, before, first.bias, columns),
            None,
            None,
        )
