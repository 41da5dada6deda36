"""The rank budget at each step (Zhang et al., 2023, eq. 12)."""

from __future__ import annotations

from dataclasses import dataclass

from leantune.errors import UsageError

FIRST_ALLOCATION = 2
"""The first step at which importances can differ.

Before the first update B or E is zero, and so is every product of a weight and its gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSchedule:
    """The rank budget over one run, in triplets over all modules, by optimiser step.

    It is constant at ``init_budget`` until ``warmup_steps``, then decreases as a cubic until
    ``prune_step = total_steps - final_steps``, then stays at ``target_budget``.

    Raises:
        UsageError: if the budget must fall and the phases leave no step for it, or only the first.
    """

    init_budget: int
    """Triplets at the start: modules x initial rank."""
    target_budget: int
    """Triplets at the end: modules x target rank."""
    total_steps: int
    """Optimiser steps of the run."""
    warmup_steps: int
    """Steps before the budget starts to fall (the paper's t_i, PEFT's ``tinit``)."""
    final_steps: int
    """Steps after the pruned triplets are removed (the paper's t_f, PEFT's ``tfinal``)."""
    allocate_every: int
    """Steps between two allocations (the paper's Delta T, PEFT's ``deltaT``)."""

    def __post_init__(self) -> None:
        if self.target_budget > self.init_budget:
            raise UsageError(
                f"target rank budget {self.target_budget} is above the initial {self.init_budget}: "
                "lower target_rank or raise init_rank"
            )
        if self.allocate_every < 1:
            raise UsageError(f"allocate_every must be at least 1 step. Got {self.allocate_every} instead.")
        if min(self.warmup_steps, self.final_steps) < 0:
            raise UsageError(
                "rank_warmup and rank_final must not be negative. "
                f"Got {self.warmup_steps} and {self.final_steps} steps instead."
            )
        if self.prunes and self.warmup_steps >= self.prune_step:
            raise UsageError(
                f"the schedule has no pruning phase: rank_warmup {self.warmup_steps} + rank_final "
                f"{self.final_steps} steps reach the total of {self.total_steps}; lower them, for example "
                f"to {self.total_steps // 10} and {self.total_steps // 2}, or train longer"
            )
        if self.prunes and self.prune_step < FIRST_ALLOCATION:
            raise UsageError(
                f"ranks would be final after step {self.prune_step} of {self.total_steps}, where no triplet has an "
                "importance yet: lower rank_final, or train longer"
            )

    @property
    def prunes(self) -> bool:
        """Whether any triplet must be pruned."""
        return self.target_budget < self.init_budget

    @property
    def prune_step(self) -> int:
        """The step at which the triplets outside the target budget are removed for good."""
        return self.total_steps - self.final_steps

    def budget_at(self, step: int) -> int:
        """The number of triplets that may live after optimiser step ``step`` (1-based).

        This is the cubic of eq. 12 in exact integer arithmetic, rounded down, so that the budget never rises and
        reaches its target exactly at ``prune_step``. The numerator is t - t_i, as in the authors' code: with t - t_i
        - t_f, as printed, the cubic would neither begin at the initial budget nor end at the target.
        """
        if not self.prunes or step < self.warmup_steps:
            return self.init_budget
        if step >= self.prune_step:
            return self.target_budget
        span, left = self.prune_step - self.warmup_steps, self.prune_step - step
        return self.target_budget + (self.init_budget - self.target_budget) * left**3 // span**3

    def allocates_at(self, step: int) -> bool:
        """Whether the budget is enforced after step ``step``.

        It is every ``allocate_every`` steps between the phases, and always at ``prune_step``.
        """
        first = max(self.warmup_steps, FIRST_ALLOCATION)
        if not self.prunes or not first <= step <= self.prune_step:
            return False
        return step == self.prune_step or step % self.allocate_every == 0

    def allocates_within(self, first: int, last: int) -> bool:
        """Whether the budget is enforced after any step from ``first`` to ``last``."""
        return any(self.allocates_at(step) for step in range(first, last + 1))


def steps_from(value: float, total_steps: int) -> int:
    """The length of a phase: a fraction of the run if below 1, otherwise a number of steps.

    >>> steps_from(0.25, 200), steps_from(30, 200), steps_from(0, 200)
    (50, 30, 0)
    """
    return round(value * total_steps) if value < 1 else int(value)
