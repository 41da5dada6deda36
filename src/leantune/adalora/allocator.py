"""Decide which triplets are worth their parameters (Zhang et al., 2023, section 3.2 and algorithm 1).

The training loop calls `RankAllocator.observe` after backward, on unscaled and unclipped gradients, and
`RankAllocator.allocate` after the optimiser step. If the optimiser skips a step, neither is called, except for a final
cut that has no later step.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from leantune.adalora.layer import AdaLoraLinear
from leantune.adalora.schedule import RankSchedule
from leantune.errors import DivergedError

BETA1 = BETA2 = 0.85
"""Decay of both averages, as published (Zhang et al., 2023, appendix C)."""


class RankAllocator:
    """Smoothed sensitivity and uncertainty of every adapter weight, and the cuts that they decide.

    All statistics stay on the device of the weights; a step costs a few fused element-wise operations and no host
    synchronisation.

    Args:
        layers: the adapted layers by name; their order breaks ties.
        schedule: the budget by step, in triplets.
        beta1: decay of the sensitivity average (eq. 9).
        beta2: decay of the uncertainty average (eq. 10).
    """

    def __init__(
        self,
        layers: Mapping[str, AdaLoraLinear],
        schedule: RankSchedule,
        *,
        beta1: float = BETA1,
        beta2: float = BETA2,
    ) -> None:
        self.layers = dict(layers)
        self.schedule = schedule
        self.beta1, self.beta2 = beta1, beta2
        self.init_ranks = {name: layer.rank for name, layer in self.layers.items()}
        self.live_ranks = dict(self.init_ranks)
        """Number of live triplets in each layer since the last allocation."""
        self.is_final = False
        self._weights: list[nn.Parameter] = [
            weight for layer in self.layers.values() for weight in (layer.lora_E, layer.lora_A, layer.lora_B)
        ]
        self.sensitivity_ema = [torch.zeros_like(w, requires_grad=False) for w in self._weights]
        self.uncertainty_ema = [torch.zeros_like(w, requires_grad=False) for w in self._weights]
        if not schedule.prunes:
            self._finish()

    @property
    def live_triplets(self) -> int:
        """Number of live triplets over all layers."""
        return sum(self.live_ranks.values())

    @torch.no_grad()
    def observe(self) -> None:
        """Fold the gradients of this step into the averages (eqs. 8 to 10).

        A weight without a gradient was not used in this step: its sensitivity is zero.
        """
        if self.is_final:
            return
        grads = [w.grad if w.grad is not None else torch.zeros_like(w) for w in self._weights]
        sensitivity = torch._foreach_mul(list(self._weights), grads)
        torch._foreach_abs_(sensitivity)
        torch._foreach_lerp_(self.sensitivity_ema, sensitivity, 1 - self.beta1)
        torch._foreach_sub_(sensitivity, self.sensitivity_ema)
        torch._foreach_abs_(sensitivity)
        torch._foreach_lerp_(self.uncertainty_ema, sensitivity, 1 - self.beta2)

    @torch.no_grad()
    def importance(self) -> Tensor:
        """Importance of every triplet ``(num_triplets,)`` fp32, layer by layer (eqs. 7 and 11).

        It is the score of E, plus the mean scores of its row of A and of its column of B. It is infinite for pinned
        triplets.
        """
        scores = torch._foreach_mul(self.sensitivity_ema, self.uncertainty_ema)
        by_layer = [
            scores[i].flatten() + scores[i + 1].mean(dim=1) + scores[i + 2].mean(dim=0)
            for i in range(0, len(scores), 3)
        ]
        for layer, importance in zip(self.layers.values(), by_layer, strict=True):
            importance[: layer.pinned] = torch.inf
        return torch.cat(by_layer)

    @torch.no_grad()
    def allocate(self, step: int) -> dict[str, Tensor] | None:
        """Enforce the budget of ``step`` if it is an allocation step.

        E of the triplets outside the budget becomes zero; they may come back until the final cut.

        Returns:
            at the final cut, the triplets to keep as a bool mask ``(R,)`` per layer; otherwise None.
        """
        if self.is_final or not self.is_due(step):
            return None
        keep_masks = self.keep_masks(self.schedule.budget_at(step))
        for layer, keep in zip(self.layers.values(), keep_masks.values(), strict=True):
            layer.lora_E.masked_fill_(~keep[:, None], 0.0)
        self.live_ranks = {name: int(keep.sum()) for name, keep in keep_masks.items()}
        if step < self.schedule.prune_step:
            return None
        self._finish()
        return keep_masks

    def _finish(self) -> None:
        """Free the averages, and references to weights that are about to be replaced by smaller ones."""
        self.is_final = True
        self._weights, self.sensitivity_ema, self.uncertainty_ema = [], [], []

    def is_due(self, step: int) -> bool:
        """Whether the budget is enforced after ``step``.

        It is if the schedule says so, or if the step of the final cut was skipped.
        """
        late = not self.is_final and step > self.schedule.prune_step
        return late or self.schedule.allocates_at(step)

    @torch.no_grad()
    def keep_masks(self, budget: int) -> dict[str, Tensor]:
        """The ``budget`` most important triplets, as a bool mask ``(R,)`` per layer.

        Ties are broken by the order of layers and rows.
        """
        importance = self.importance()
        ranks = [layer.rank for layer in self.layers.values()]
        keep = torch.zeros_like(importance, dtype=torch.bool)
        keep[torch.argsort(importance, descending=True, stable=True)[:budget]] = True
        return dict(zip(self.layers, torch.split(keep, ranks), strict=True))

    def check_ranks_are_final(self, step: int) -> None:
        """Check that the ranks are final once the pruning phase is over.

        Raises:
            DivergedError: if the number of remaining triplets differs from the target budget.
        """
        if not self.schedule.prunes or step < self.schedule.prune_step:
            return
        alive = sum(layer.rank for layer in self.layers.values())
        if alive != self.schedule.target_budget:
            raise DivergedError(
                f"after step {step} {alive} triplets are alive and the target budget is "
                f"{self.schedule.target_budget}: the allocator did not run; please report this bug in leantune"
            )

    def state_tensors(self) -> dict[str, Tensor]:
        """The averages by name, for a checkpoint; empty after the final cut."""
        if self.is_final:
            return {}
        names = [f"{name}.{part}" for name in self.layers for part in ("lora_E", "lora_A", "lora_B")]
        return {
            f"{kind}.{name}": tensor
            for kind, tensors in (
                ("sensitivity_ema", self.sensitivity_ema),
                ("uncertainty_ema", self.uncertainty_ema),
            )
            for name, tensor in zip(names, tensors, strict=True)
        }

    def load_state_tensors(
        self, tensors: Mapping[str, Tensor], *, is_final: bool, live_ranks: Mapping[str, int]
    ) -> None:
        """Continue from `state_tensors`; the layers must already have the ranks of that step."""
        self.live_ranks = dict(live_ranks)
        if is_final:
            self._finish()
        for name, own in self.state_tensors().items():
            own.copy_(tensors[name])
