"""From a limit on trainable parameters to ranks, by exact arithmetic, before weights are loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from leantune.adalora.method import ADALORA, Method
from leantune.config.record.run import ModuleRecord, ParametersRecord
from leantune.errors import UsageError

DEFAULT_TARGET_RANK = 8
"""Target rank if neither a limit nor a rank is given (Zhang et al., 2023, section 4)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A linear layer that gets an adapter."""

    name: str
    in_features: int
    out_features: int
    trains_e: bool = True
    """Whether E is trained, and so counted; it is not in plain LoRA."""

    @property
    def triplet_parameters(self) -> int:
        """Number of trainable parameters in one triplet."""
        return self.in_features + self.out_features + self.trains_e


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterPlan:
    """The budget of trainable parameters of one run."""

    targets: tuple[Target, ...]
    method: Method
    head: int
    """Trainable parameters of the classification head."""
    base: int
    """Parameters of the classifier without adapters, including frozen ones and the head."""
    init_rank: int
    target_rank: int
    limit: int | None
    """The user's ``max_trainable_params``; it limits `initial`, the largest count during the run."""

    @property
    def per_rank(self) -> int:
        """Trainable parameters that one more rank in every target costs."""
        return _per_rank(self.targets)

    @property
    def adapters(self) -> int:
        """Adapter parameters at the start."""
        return self.init_rank * self.per_rank

    @property
    def initial(self) -> int:
        """Trainable parameters at the start, which is also the maximum."""
        return self.head + self.adapters

    @property
    def total(self) -> int:
        """All parameters of the classifier, adapters included, at the start."""
        return self.base + self.adapters

    @property
    def init_budget(self) -> int:
        """Triplets at the start."""
        return self.init_rank * len(self.targets)

    @property
    def target_budget(self) -> int:
        """Triplets at the end."""
        return self.target_rank * len(self.targets)

    @property
    def adapters_final(self) -> int:
        """Adapter parameters after pruning if every target ends at the target rank.

        This is exact if all targets have the same shape, as query and value do; otherwise it depends on which triplets
        survive, within `adapters_final_range`.
        """
        return self.target_rank * self.per_rank

    @property
    def final(self) -> int:
        """Trainable parameters after pruning; see `adapters_final`."""
        return self.head + self.adapters_final

    @property
    def adapters_final_range(self) -> tuple[int, int]:
        """Fewest and most adapter parameters that the target budget of triplets can leave."""
        costs = sorted(t.triplet_parameters for t in self.targets for _ in range(self.init_rank))
        return sum(costs[: self.target_budget]), sum(costs[len(costs) - self.target_budget :])

    def to_record(self) -> ParametersRecord:
        """The plan as ``record.json`` holds it before training."""
        return ParametersRecord(
            budget=self.limit,
            initial=self.initial,
            final=self.final,
            total=self.total,
            head=self.head,
            adapters=self.adapters,
            adapters_final=self.adapters_final,
            modules=[
                ModuleRecord(
                    name=target.name,
                    in_features=target.in_features,
                    out_features=target.out_features,
                    initial_rank=self.init_rank,
                    final_rank=None,
                )
                for target in self.targets
            ],
        )


def plan_parameters(
    targets: Sequence[Target],
    *,
    head: int,
    base: int,
    method: Method = ADALORA,
    limit: int | None = None,
    init_rank: int | None = None,
    target_rank: int | None = None,
) -> ParameterPlan:
    """Find ranks for ``limit``, or check the ranks that the user gives.

    Given only the limit, the initial rank is the largest that fits, and the target rank is the method's share of it:
    five sixths, or all of it in plain LoRA. Given one rank, the other follows by the same share. Given neither rank nor
    limit, the target is the paper's 8.

    Args:
        targets: the layers to adapt; none: the head is trained alone, and both ranks are 0.
        head: trainable parameters of the head.
        base: parameters of the whole classifier without adapters.
        method: AdaLoRA or LoRA.
        limit: most trainable parameters at any time during the run.
        init_rank: triplets per target at the start.
        target_rank: mean triplets per target at the end.

    Raises:
        UsageError: if the ranks are invalid, or nothing fits the limit; the message names the nearest possible value.
    """
    if (
        limit is not None
        and (smallest := smallest_limit(targets, head=head, rank=method.smallest_rank)) > limit
    ):
        adapters = (
            f" and {method.title} of rank {method.smallest_rank} in {len(targets)} modules {smallest - head:,}"
            if targets
            else ""
        )
        raise UsageError(
            f"max_trainable_params={limit:,} is too small: the head has {head:,} parameters{adapters}; the smallest "
            f"limit that fits is {smallest:,}"
        )
    if not targets:
        if init_rank is not None or target_rank is not None:
            raise UsageError(
                "init_rank and target_rank need adapters: leave them out, or leave out targets=head-only"
            )
        return ParameterPlan(
            targets=(), method=method, head=head, base=base, init_rank=0, target_rank=0, limit=limit
        )
    per_rank = _per_rank(targets)
    full = full_rank(targets)
    for name, rank in (("init_rank", init_rank), ("target_rank", target_rank)):
        if rank is not None and rank > full:
            raise UsageError(
                f"{name} must be at most {full}, the rank of the largest target. Got {rank} instead"
            )
    largest = min((limit - head) // per_rank, full) if limit is not None else None
    init_rank, target_rank = _ranks(method, init_rank, target_rank, largest)
    plan = ParameterPlan(
        targets=tuple(targets),
        method=method,
        head=head,
        base=base,
        init_rank=init_rank,
        target_rank=target_rank,
        limit=limit,
    )
    if limit is not None and largest is not None and plan.initial > limit:
        raise UsageError(
            f"init_rank={init_rank} needs {plan.initial:,} trainable parameters (head {head:,} + "
            f"{len(targets)} modules {plan.adapters:,}) and max_trainable_params is {limit:,}; "
            f"the nearest that fits is init_rank={largest} ({head + largest * per_rank:,})"
        )
    return plan


def full_rank(targets: Sequence[Target]) -> int:
    """The highest useful rank: the smaller side of the largest target."""
    return max(min(target.in_features, target.out_features) for target in targets)


def _per_rank(targets: Sequence[Target]) -> int:
    """Trainable parameters that one more rank in every target costs."""
    return sum(target.triplet_parameters for target in targets)


def _ranks(
    method: Method, init_rank: int | None, target_rank: int | None, largest: int | None
) -> tuple[int, int]:
    """Initial and target rank; if only one is given, the other is derived from it."""
    share = method.target_share
    if init_rank is None and target_rank is None:
        init_rank = largest if largest is not None else math.ceil(DEFAULT_TARGET_RANK / share)
    if init_rank is None:
        assert target_rank is not None
        init_rank = math.ceil(target_rank / share)
    if target_rank is None:
        target_rank = max(1, math.floor(init_rank * share))
    if not method.prunes and init_rank != target_rank:
        raise UsageError(
            f"{method.title} prunes nothing: init_rank and target_rank must be equal, or only one given. "
            f"Got init_rank={init_rank} target_rank={target_rank} instead"
        )
    if target_rank < 1 or (method.prunes and init_rank <= target_rank):
        example = max(1, target_rank)
        raise UsageError(
            f"init_rank must be above target_rank and target_rank at least 1, so that there is something "
            f"to prune. Got init_rank={init_rank} target_rank={target_rank} instead; for example "
            f"init_rank={max(method.smallest_rank, math.ceil(example / share))} target_rank={example}"
        )
    return init_rank, target_rank


def smallest_limit(targets: Sequence[Target], *, head: int, rank: int) -> int:
    """Return the smallest limit that pays for the head and for adapters of ``rank``."""
    return head + rank * _per_rank(targets)
