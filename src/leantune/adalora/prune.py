"""Remove triplets for real: smaller tensors, sliced optimiser moments, no modules of rank 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear


class Adapted(Protocol):
    """A model with adapted layers."""

    def adapted_layers(self) -> dict[str, AdaLoraLinear]:
        """The adapted layers by name."""

    def replace(self, name: str, module: nn.Module) -> None:
        """Replace the layer called ``name`` by ``module``."""


def prune(
    model: Adapted, keep_masks: Mapping[str, Tensor], optimizer: torch.optim.Optimizer | None = None
) -> None:
    """Remove the triplets outside ``keep_masks`` (bool ``(R,)`` per layer) from ``model``.

    A layer that loses all its triplets is replaced by its frozen linear layer, so that backward stops above the lowest
    remaining layer. The moments in ``optimizer`` are cut in the same way.
    """
    for name, layer in model.adapted_layers().items():
        keep_mask = keep_masks[name]
        old = (layer.lora_A, layer.lora_E, layer.lora_B)
        layer.keep(keep_mask)
        new = (layer.lora_A, layer.lora_E, layer.lora_B)
        if optimizer is not None:
            for before, after, dim in zip(old, new, (0, 0, 1), strict=True):
                _replace_parameter(optimizer, before, after, keep_mask, dim)
        if layer.rank == 0:
            model.replace(name, layer.base)


def _replace_parameter(
    optimizer: torch.optim.Optimizer, before: nn.Parameter, after: nn.Parameter, keep_mask: Tensor, dim: int
) -> None:
    kept = keep_mask.nonzero().flatten()
    state = optimizer.state.pop(before, {})
    if after.numel():
        optimizer.state[after] = {
            key: value.index_select(dim, kept) if value.shape == before.shape else value
            for key, value in state.items()
        }
    for group in optimizer.param_groups:
        if any(p is before for p in group["params"]):
            group["params"] = [after if p is before else p for p in group["params"]]
            if not after.numel():
                group["params"] = [p for p in group["params"] if p is not after]
