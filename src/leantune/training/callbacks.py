"""What happens after each step of a run: log, evaluate, save, stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from leantune.config import Recipe
from leantune.data.tokens.dataset import LabelledRows
from leantune.errors import Interrupted
from leantune.evaluation.batches import evaluate
from leantune.system import distributed
from leantune.system.console import print_detail
from leantune.training.after.answers import saved_answers
from leantune.training.before.dataset import StepPlan
from leantune.training.checkpoint import checkpoint_path, save_checkpoint
from leantune.training.history import Display, History, rounded
from leantune.training.loop import StepResult, TrainingState
from leantune.training.selection import Evaluation, Selection
from leantune.training.signals import Interrupt
from leantune.training.state import capture
from leantune.training.trackers import Trackers

UNMEASURED_SAVES = 3
"""Approximate number of checkpoints if no rows are held out for measurement; such runs are short."""
TRACKED = ("accuracy", "macro_f1", "log_loss", "micro_f1", "lrap")
"""Metrics of an evaluation to send to trackers, if it has them."""
LOGGED_STEPS = 500
"""Approximate number of steps that history.jsonl holds."""


def is_converged(recipe: Recipe, selection: Selection) -> bool:
    """Whether early stopping ends the run."""
    patience = recipe.advanced.early_stop
    return bool(patience) and selection.since_best() >= patience


@dataclass(slots=True)
class RunObserver:
    """Log, evaluate, save and stop, in this order, after each step of the main run."""

    folder: Path
    recipe: Recipe
    steps: StepPlan
    validation: LabelledRows
    """If empty, evaluations only save and show progress; nothing is measured."""
    label_names: tuple[str, ...]
    selection: Selection
    history: History
    display: Display
    interrupt: Interrupt
    trackers: Trackers
    elapsed: Callable[[], float]
    """Seconds since the run began."""
    save_s: float = 0.0
    """Seconds spent on checkpoints so far, in this process."""

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        """Whether training continues.

        Raises:
            Interrupted: after a signal, once the step is saved.
        """
        self._log(state, result)
        answers = self._evaluate(state, result) if self._evaluation_is_due(state.step) else None
        is_saved = answers is not None or self._save_is_due(state.step)
        number = self._signal()
        if is_saved or number is not None:
            self._save(state, answers)
        if number is not None:
            raise self._interrupted(state, number)
        return not self.is_converged()

    def stop_if_asked(self, state: TrainingState) -> None:
        """Stop after the last step, which is already saved, if a signal asked for it.

        Raises:
            Interrupted: if a signal came since `after_step` checked.
        """
        number = self._signal()
        if number is not None:
            raise self._interrupted(state, number)

    def _interrupted(self, state: TrainingState, number: int) -> Interrupted:
        return Interrupted(
            f"{signal.Signals(number).name} after step {state.step}: saved "
            f"{checkpoint_path(self.folder, state.step)}; continue with: {self.interrupt.resume(self.folder)}",
            signal_number=number,
        )

    def _signal(self) -> int | None:
        """The signal that this or another process received; all processes stop after the same step."""
        number = self.interrupt.signal_number
        (requests,) = distributed.sum_numbers(float(number is not None))
        return (number or signal.SIGTERM) if requests else None

    def _log(self, state: TrainingState, result: StepResult) -> None:
        allocator, ranks = state.allocator, self.steps.ranks
        tokens_per_s = result.num_tokens / max(result.seconds, 1e-9)
        self.display.step(result, tokens_per_s)
        every = max(1, self.steps.total_steps // LOGGED_STEPS)
        if state.step % every and not result.is_pruned:
            return
        values = rounded(
            {
                "epoch": result.epoch,
                "loss": result.loss,
                "orthogonality": result.orthogonality,
                "learning_rate": result.learning_rate,
                "tokens_per_s": tokens_per_s,
            }
        )
        self.trackers.log(state.step, "train", values)
        has_moved = ranks.allocates_within(state.step - every + 1, state.step)
        self.history.write(
            "step",
            step=state.step,
            **values,
            budget=ranks.budget_at(state.step),
            spent=allocator.live_triplets,
            live_triplets=allocator.live_triplets,
            **({"ranks": allocator.live_ranks} if has_moved else {}),
            **({"skipped": True} if result.is_skipped else {}),
        )
        if result.is_pruned:
            trainable = state.classifier.num_trainable()
            self.history.write("pruned", step=state.step, ranks=allocator.live_ranks, trainable=trainable)
            print_detail(
                self.display.console,
                f"step {state.step}: ranks final, {allocator.live_triplets} of "
                f"{sum(allocator.init_ranks.values())} triplets left, {trainable:,} trainable parameters",
            )

    def _evaluation_is_due(self, step: int) -> bool:
        every = self.recipe.advanced.evaluate_every or self.steps.steps_per_epoch
        if not len(self.validation):
            every = max(every, self.steps.total_steps // UNMEASURED_SAVES)
        return step % every == 0 or step == self.steps.total_steps

    def _save_is_due(self, step: int) -> bool:
        return bool(self.recipe.advanced.save_every) and step % self.recipe.advanced.save_every == 0

    def _evaluate(self, state: TrainingState, result: StepResult) -> dict[str, torch.Tensor]:
        """Measure the validation rows; returns the answers that the checkpoint stores."""
        if not len(self.validation):
            self.selection.evaluations.append(
                Evaluation(state.step, result.epoch, None, is_eligible=state.allocator.is_final)
            )
            self.display.say(f"step {state.step}: loss {result.loss:.3f}")
            return {"predicted": torch.empty(0, dtype=torch.int64)}
        with self.display.working("evaluating"):
            metrics, answers = evaluate(
                state.classifier, self.validation, self.label_names, self.recipe.eval_batch_size
            )
        measured = metrics.to_json()
        # C x C numbers, in every later checkpoint too; `select_best` computes the chosen one's again
        del measured["confusion"]
        self.selection.evaluations.append(
            Evaluation(state.step, result.epoch, measured, is_eligible=state.allocator.is_final)
        )
        self.history.write(
            "evaluation",
            step=state.step,
            epoch=result.epoch,
            train_s=round(state.train_s, 3),
            validation=measured,
        )
        self.trackers.log(
            state.step, "validation", {name: measured[name] for name in TRACKED if name in measured}
        )
        self.display.say(f"step {state.step}: {metrics.summary()}")
        self.display.best = self._best_score()
        return saved_answers(answers)

    def _best_score(self) -> str:
        """The best value of the metric so far, for the progress bar."""
        measured = [
            e.metrics[self.recipe.selection_metric]
            for e in self.selection.evaluations
            if e.metrics is not None
        ]
        if self.recipe.selection_metric == "log_loss":
            return f"best log loss {min(measured):.3f}"
        return f"best {100 * max(measured):.1f} %"

    def _save(self, state: TrainingState, answers: dict[str, torch.Tensor] | None) -> None:
        started = time.perf_counter()
        with self.display.working("saving"):
            checkpoint = capture(
                state,
                {
                    "evaluations": [each.to_json() for each in self.selection.evaluations],
                    "history_bytes": self.history.position(),
                    "elapsed_s": self.elapsed(),
                },
            )
            if answers is not None:
                checkpoint.tensors.update(answers)
            if distributed.is_main():
                save_checkpoint(self.folder, state.step, checkpoint)
                self.selection.clean(self.folder)
            distributed.barrier()
        self.save_s += time.perf_counter() - started

    def is_converged(self) -> bool:
        """Whether early stopping ends the run."""
        return is_converged(self.recipe, self.selection)


@dataclass(slots=True)
class SilentObserver:
    """Only updates the display: for the refit epoch and the short runs of a race, which evaluate nothing."""

    display: Display

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        """Always true: training continues."""
        self.display.step(result, result.num_tokens / max(result.seconds, 1e-9))
        return True
