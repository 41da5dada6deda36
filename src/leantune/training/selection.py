"""Which checkpoints stay: the best by the validation metric, and the last two to resume from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leantune.training.checkpoint import list_checkpoints, remove_checkpoint

KEEP_LAST = 2
"""Newest checkpoints that always stay: if the last one is damaged, the one before still serves."""


@dataclass(slots=True)
class Evaluation:
    """One evaluation on the validation rows."""

    step: int
    epoch: float
    metrics: dict[str, Any]
    """``Metrics.to_json()``."""
    is_eligible: bool
    """Whether ranks were final: only then is the model the one that was planned."""

    def to_json(self) -> dict[str, Any]:
        """For the state of a checkpoint."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "metrics": self.metrics,
            "is_eligible": self.is_eligible,
        }


@dataclass(slots=True)
class Selection:
    """The evaluations of a run, and the checkpoints that they make worth keeping.

    Args:
        metric: ``accuracy``, ``macro_f1`` or ``log_loss``.
        keep_best: how many of the best stay.
    """

    metric: str
    keep_best: int
    evaluations: list[Evaluation] = field(default_factory=list)

    def ranking(self) -> list[Evaluation]:
        """Eligible evaluations, best first; a tie goes to the lower log loss, then to the earlier."""
        sign = 1 if self.metric == "log_loss" else -1
        return sorted(
            (e for e in self.evaluations if e.is_eligible),
            key=lambda e: (sign * e.metrics[self.metric], e.metrics["log_loss"], e.step),
        )

    def kept_steps(self) -> set[int]:
        """Steps of the best eligible evaluations."""
        return {evaluation.step for evaluation in self.ranking()[: self.keep_best]}

    def since_best(self) -> int:
        """Eligible evaluations after the best one."""
        ranking = self.ranking()
        return sum(e.step > ranking[0].step for e in ranking) if ranking else 0

    def clean(self, run: Path) -> None:
        """Remove the checkpoints of ``run`` that are neither among the best nor the newest."""
        steps = list(list_checkpoints(run))
        for step in steps[:-KEEP_LAST]:
            if step not in self.kept_steps():
                remove_checkpoint(run, step)
