"""Initialise head and adapters before the first step, and report how long it took.

The arithmetic is in `head_init` and `adapter_init`.
"""

from __future__ import annotations

import math
import time

from leantune.config.record.run import BaselineRecord
from leantune.model.classifier import Classifier
from leantune.system import distributed
from leantune.system.console import print_detail
from leantune.training.after.finalize import measure_parts, measures_of
from leantune.training.before.adapter_init import attend_evenly, init_lora_from_gradient
from leantune.training.before.head_init import (
    PROBE_SCALE,
    Probe,
    fit_probe,
    scale_output_layer,
    start_from_probe,
)
from leantune.training.build import Run, class_weights
from leantune.training.history import preparing

ENOUGH_ROWS_TO_LEARN_ATTENTION = 1000
"""With this many rows or more, even attention gained nothing (benchmarks/notebook)."""


def warm_start(run: Run, classifier: Classifier) -> None:
    """Start the head from a linear probe, and measure it as the baseline of the run."""
    if not run.recipe.advanced.warm_start:
        return
    started = time.perf_counter()
    with preparing(run.console, "fitting the linear probe"):
        probe, is_even = start_head(run, classifier)
        fitted = time.perf_counter()
        validation, test = measure_parts(run, classifier)
    run.record.timings |= {"probe_s": fitted - started, "baseline_s": time.perf_counter() - fitted}
    shrink_head(run, classifier, probe)
    run.record.baseline = BaselineRecord(
        name="linear probe",
        rows=probe.num_rows,
        validation=None if validation is None else measures_of(validation),
        test=None if test is None else measures_of(test),
    )
    reached = ""
    if validation is not None:
        name, value = validation.headline
        reached = f" validation {name} {100 * value:.1f} % in"
    run.console.print(f"linear probe of {probe.num_rows:,} rows:{reached} {fitted - started:.0f} s")
    if is_even:
        print_detail(
            run.console,
            "first tokens start with even attention in the last layer: it improves the linear probe",
        )


def shrink_head(run: Run, classifier: Classifier, probe: Probe) -> None:
    """Scale the probe in the output layer down, so that adapters still have something to learn.

    A head that is trained alone keeps the probe's scale: it was better on all sets (benchmarks/notebook).
    """
    if run.plan.targets:
        scale_output_layer(classifier, PROBE_SCALE, probe.scaled_bias)


def start_head(run: Run, classifier: Classifier) -> tuple[Probe, bool]:
    """Put a linear probe into the output layer.

    With few rows, a second probe is fitted with even attention of first tokens; it is used, and the adapters stay that
    way, if its log loss on held-out rows is lower. With many rows the encoder learns this by itself
    (benchmarks/notebook).

    Returns:
        the probe, and whether attention is even.
    """
    recipe, rows = run.recipe, run.data.train

    def fitted() -> Probe:
        return fit_probe(classifier, rows, recipe.eval_batch_size, seed=recipe.seed)

    run.probe = probe = run.probe or fitted()
    is_even = False
    if len(rows) < ENOUGH_ROWS_TO_LEARN_ATTENTION and (
        even := attend_evenly(classifier, rows, recipe.eval_batch_size, seed=recipe.seed)
    ):
        other = fitted()
        is_even = other.log_loss < probe.log_loss
        if is_even:
            probe = other
        else:
            even.undo()
    start_from_probe(classifier, probe)
    return probe, is_even


def init_adapters(run: Run, classifier: Classifier) -> None:
    """Initialise the adapters from the gradient, if the recipe asks for it."""
    started = time.perf_counter()
    with run.console.status("initialising the adapters from the gradient"):
        num_rows = start_adapters(run, classifier)
    if not num_rows:
        return
    seconds = run.record.timings["gradient_start_s"] = time.perf_counter() - started
    print_detail(run.console, f"adapters initialised from the gradient of {num_rows} rows in {seconds:.0f} s")


def start_adapters(run: Run, classifier: Classifier) -> int:
    """Turn the rows of A along the gradient, if the recipe asks for it.

    Returns:
        the number of training rows used; 0 if the recipe asks for another initialisation.
    """
    recipe = run.recipe
    if recipe.advanced.adapter_init != "gradient" or not run.plan.targets:
        return 0
    return init_lora_from_gradient(
        classifier,
        run.data.train,
        math.ceil(recipe.batch_size / (recipe.accumulate * distributed.world_size())),
        seed=recipe.seed,
        class_weights=class_weights(run, run.data.train),
    )
