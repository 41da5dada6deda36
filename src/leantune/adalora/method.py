"""The differences between AdaLoRA and plain LoRA, which share one layer, loop and plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leantune.adalora.triplets import Draw, draw_lora, draw_normal


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A value of the recipe key ``method``."""

    title: str
    """Name to use in messages."""
    trains_e: bool
    """Whether E is trained and counted; in plain LoRA it is fixed to one."""
    target_share: float
    """Ratio of target to initial rank if the user gives only one of them; 1 means that nothing is pruned."""
    draws: Mapping[str, Draw]
    """Initial values by the recipe key ``adapter_init``."""

    @property
    def prunes(self) -> bool:
        """Whether the target rank is below the initial rank."""
        return self.target_share < 1

    @property
    def smallest_rank(self) -> int:
        """The lowest useful initial rank: pruning needs something to prune."""
        return 2 if self.prunes else 1


_FROM_LORA: Mapping[str, Draw] = {"lora": draw_lora, "gradient": draw_lora}
"""``gradient`` starts from the same values and turns them once there are rows (`training.adapter_init`)."""

ADALORA = Method(
    title="AdaLoRA",
    trains_e=True,
    # the paper keeps two thirds (Zhang et al., 2023, section 4); benchmarks/notebook compares other shares
    target_share=5 / 6,
    draws={**_FROM_LORA, "normal": draw_normal},
)
LORA = Method(title="LoRA", trains_e=False, target_share=1.0, draws=_FROM_LORA)

METHODS: Mapping[str, Method] = {"adalora": ADALORA, "lora": LORA}
"""Methods by the recipe key ``method``."""
