"""A run that leaves nothing behind: trained to its end for what it tells, without a file."""

from __future__ import annotations

from leantune.model.classifier import Classifier
from leantune.training.build import Run, build_classifier, fresh_state, main_phase
from leantune.training.callbacks import SilentObserver
from leantune.training.head_init import PROBE_SCALE, scale_output_layer
from leantune.training.history import Display
from leantune.training.loop import train
from leantune.training.starts import start_adapters, start_head


def trained(trial: Run) -> Classifier:
    """The classifier of ``trial`` after its last step."""
    classifier = build_classifier(trial)
    if trial.recipe.advanced.warm_start:
        start_head(trial, classifier)
        scale_output_layer(classifier, PROBE_SCALE)
    start_adapters(trial, classifier)
    phase = main_phase(trial)
    with Display(phase.total_steps, trial.console) as display:
        train(fresh_state(trial, classifier, trial.steps.ranks), phase, trial.recipe, SilentObserver(display))
    return classifier
