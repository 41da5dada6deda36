"""Weights of frozen layers of one input as one, in int8 or in bf16: both multiply each way, and take an update.

Shape letters: T tokens, D width of the input, F columns of all outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from leantune.packing.native.int8 import rounded_as_one, rounding_of
from leantune.packing.native.rounded import Factors, Int8Weight
from leantune.packing.side_by_side import as_one, lay_side_by_side


@dataclass(frozen=True, slots=True)
class Bf16Weight:
    """Frozen weights in bf16, one below the other; `Int8Weight` is the same in int8."""

    whole: Tensor
    """``(F, D)``."""

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> Bf16Weight:
        """The weights of ``layers``, which move into one buffer."""
        weights = [layer.weight for layer in layers]
        lay_side_by_side(weights)
        return cls(as_one(weights, dim=0))

    def forward(self, x_TD: Tensor, *, update: Factors | None = None) -> Tensor:
        """``W x`` and an update for each token: ``(T, D)`` to ``(T, F)``."""
        out = x_TD @ self.whole.t()
        return out if update is None else out.addmm_(update[0][: len(x_TD)], update[1].t())

    def backward(self, grad_TF: Tensor, *, onto: Tensor | None = None) -> Tensor:
        """The gradient of x ``(T, D)``, in the memory of ``onto`` and added to it, if that is given."""
        return grad_TF @ self.whole if onto is None else onto.addmm_(grad_TF, self.whole)


FrozenWeight = Int8Weight | Bf16Weight


def weight_of(layers: Sequence[nn.Linear], x: Tensor) -> FrozenWeight:
    """The weights of ``layers`` for ``x``; in int8 if all of them round it."""
    rounding = rounding_of(layers, x)
    return Bf16Weight.of(layers) if rounding is None else rounded_as_one(rounding)
