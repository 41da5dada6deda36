"""Train a run only to measure it, without writing any file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from leantune.config import Recipe
from leantune.data.tokens.dataset import LabelledRows
from leantune.evaluation.batches import evaluate
from leantune.evaluation.metrics import Metrics
from leantune.model.classifier import Classifier
from leantune.training.before.dataset import plan_steps
from leantune.training.before.starts import shrink_head, start_adapters, start_head
from leantune.training.build import Run, build_classifier, fresh_state, main_phase, plan_run
from leantune.training.callbacks import SilentObserver, is_converged
from leantune.training.history import Display, preparing
from leantune.training.loop import StepResult, TrainingState, train
from leantune.training.selection import Evaluation, Selection

GoesOn = Callable[[int, Metrics], bool]
"""Called with the step and the validation metrics; returns whether the trial continues."""


def on_rows(run: Run, recipe: Recipe, train: LabelledRows) -> Run:
    """A trial of ``recipe`` on some rows of ``run``, with its own budget, schedule and probe."""
    recipe, plan = plan_run(recipe, run.pretrained)
    steps = plan_steps(recipe, plan, len(train))
    return replace(
        run, recipe=recipe, plan=plan, steps=steps, data=replace(run.data, train=train), probe=None
    )


def trained(trial: Run, what: str = "training") -> Classifier:
    """Train ``trial`` and return its classifier; ``what`` names it to the user."""
    classifier = _started(trial, what)
    phase = main_phase(trial)
    with Display(phase.total_steps, trial.console, what) as display:
        train(fresh_state(trial, classifier, trial.steps.ranks), phase, trial.recipe, SilentObserver(display))
    return classifier


def measured(trial: Run, goes_on: GoesOn) -> Evaluation | None:
    """Train ``trial`` like a run of its recipe, and measure it at the same steps.

    Args:
        trial: a run with validation rows; its folder is not touched.
        goes_on: called with the step and the metrics of each evaluation; False ends the trial there.

    Returns:
        the evaluation whose checkpoint the run would choose; None if the trial was ended early.

    Raises:
        DivergedError: as a run does.
    """
    classifier = _started(trial, "training")
    selection = Selection(
        trial.recipe.selection_metric, trial.recipe.advanced.keep_best, rule=trial.recipe.advanced.selection
    )
    phase = main_phase(trial)
    with Display(phase.total_steps, trial.console) as display:
        observer = TrialObserver(trial, selection, display, goes_on)
        train(fresh_state(trial, classifier, trial.steps.ranks), phase, trial.recipe, observer)
    return None if observer.is_ended else selection.ranking()[0]


@dataclass(slots=True)
class TrialObserver:
    """Evaluates and reports, but saves nothing."""

    trial: Run
    selection: Selection
    display: Display
    goes_on: GoesOn
    is_ended: bool = False

    def after_step(self, state: TrainingState, result: StepResult) -> bool:
        """Whether training continues."""
        self.display.step(result, result.num_tokens / max(result.seconds, 1e-9))
        recipe, steps = self.trial.recipe, self.trial.steps
        every = recipe.advanced.evaluate_every or steps.steps_per_epoch
        if state.step % every and state.step != steps.total_steps:
            return True
        data = self.trial.data
        metrics, _ = evaluate(state.classifier, data.validation, data.labels.names, recipe.eval_batch_size)
        self.selection.evaluations.append(
            Evaluation(state.step, result.epoch, metrics.to_json(), is_eligible=state.allocator.is_final)
        )
        self.is_ended = not self.goes_on(state.step, metrics)
        return not (self.is_ended or is_converged(recipe, self.selection))


def _started(trial: Run, what: str) -> Classifier:
    """Build the classifier, with head and adapters initialised."""
    classifier = build_classifier(trial)
    if trial.recipe.advanced.warm_start:
        with preparing(trial.console, f"{what}: fitting the linear probe"):
            probe, _ = start_head(trial, classifier)
        shrink_head(trial, classifier, probe)
    start_adapters(trial, classifier)
    return classifier
