"""A feed-forward block of a layer as one pass, where nothing of it has to be kept (`dense.c`).

T packed tokens, D model width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from leantune.packing.native.dense import can_multiply, feed_forward
from leantune.packing.native.norm import is_frozen_norm


@dataclass(frozen=True, slots=True, eq=False)
class FeedForward:
    """Two modules that transformers calls one after the other, of which the second can do all where `serves`."""

    first: nn.Module
    """GELU(dense(x)): a `GeluLayer`."""
    last: nn.Module
    """LayerNorm(dropout(dense(y)) + x): a `ResidualBlock`."""

    def serves(self, x_TD: Tensor) -> bool:
        """Whether the whole block is one pass for ``x_TD``, here and now."""
        last: Any = self.last
        drops = last.dropout.training and last.dropout.p > 0
        return not drops and can_multiply(self._layers, x_TD) and is_frozen_norm(last.LayerNorm, x_TD)

    def __call__(self, x_TD: Tensor) -> Tensor:
        """``(..., D)`` to ``(..., D)``."""
        last: Any = self.last
        return feed_forward(x_TD, *self._layers, last.LayerNorm)

    @property
    def _layers(self) -> tuple[Any, Any]:
        return self.first.dense, self.last.dense
