"""Choose which checkpoints to keep: the best by the validation metric, and the last two to resume from."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leantune.evaluation.intervals import Z_95
from leantune.training.checkpoint import list_checkpoints, remove_checkpoint

KEEP_LAST = 2
"""Number of newest checkpoints to keep: if the last one is damaged, the one before can still be resumed."""


@dataclass(slots=True)
class Evaluation:
    """One evaluation on the validation rows, or a point to save at if no rows are held out."""

    step: int
    epoch: float
    metrics: dict[str, Any] | None
    """``Metrics.to_json()`` without the confusion matrix; None if no rows are held out."""
    is_eligible: bool
    """Whether ranks were final: only then is the model the planned one."""

    def to_json(self) -> dict[str, Any]:
        """The evaluation as a checkpoint's state holds it."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "metrics": self.metrics,
            "is_eligible": self.is_eligible,
        }


@dataclass(slots=True)
class Selection:
    """The evaluations of a run, and which of their checkpoints to keep.

    Args:
        metric: one of the recipe's values for ``metric``.
        keep_best: number of best checkpoints to keep.
        evaluations: evaluations in the order of their steps.
        rule: ``best``, or ``one-se``: the last checkpoint within one standard error of the best, because a difference
            that small is no reason to prefer one (Breiman et al., 1984, Classification and Regression Trees,
            section 3.4.3) and the learning rate is lowest there. Log loss has no measured error, so the lowest is
            taken. If no rows are held out, the last checkpoint is taken.
    """

    metric: str
    keep_best: int
    evaluations: list[Evaluation] = field(default_factory=list)
    rule: str = "one-se"

    def ranking(self) -> list[Evaluation]:
        """Eligible evaluations: first the one that the rule chooses, then the others from best to worst."""
        if any(e.metrics is None for e in self.evaluations):
            return sorted((e for e in self.evaluations if e.is_eligible), key=lambda e: -e.step)
        ranking = self._best_first()
        if self.rule == "best" or not ranking:
            return ranking
        least = self._score(ranking[0]) - self._standard_error(ranking[0])
        chosen = max((e for e in ranking if self._score(e) >= least), key=lambda e: e.step)
        return [chosen, *(e for e in ranking if e is not chosen)]

    def _best_first(self) -> list[Evaluation]:
        """Sort evaluations by the metric; ties go to the lower log loss, then to the earlier step."""
        eligible = (e for e in self.evaluations if e.is_eligible)
        return sorted(eligible, key=lambda e: (-self._score(e), _measured(e)["log_loss"], e.step))

    def _score(self, evaluation: Evaluation) -> float:
        value: float = _measured(evaluation)[self.metric]
        return -value if self.metric == "log_loss" else value

    def _standard_error(self, evaluation: Evaluation) -> float:
        if self.metric == "log_loss":
            return 0.0
        low, high = _measured(evaluation)[f"{self.metric}_interval"]
        return float(high - low) / (2 * Z_95)

    def kept_steps(self) -> set[int]:
        """Steps of the best eligible evaluations."""
        return {evaluation.step for evaluation in self.ranking()[: self.keep_best]}

    def since_best(self) -> int:
        """Number of eligible evaluations since the metric last improved."""
        eligible = [e for e in self.evaluations if e.is_eligible and e.metrics is not None]
        first_best = max(range(len(eligible)), key=lambda i: self._score(eligible[i]), default=-1)
        return len(eligible) - 1 - first_best

    def clean(self, run: Path) -> None:
        """Remove the checkpoints of ``run`` that are neither among the best nor among the newest."""
        steps = list(list_checkpoints(run))
        for step in steps[:-KEEP_LAST]:
            if step not in self.kept_steps():
                remove_checkpoint(run, step)


def _measured(evaluation: Evaluation) -> dict[str, Any]:
    assert evaluation.metrics is not None, "checked by ranking"
    return evaluation.metrics
