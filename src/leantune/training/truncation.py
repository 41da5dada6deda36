"""Which end of a long text is cut off (``truncation_side``), where the recipe leaves that open.

A review says its verdict at the end, a news text what it is about at the beginning. A linear probe on the encoder as it
is tells the two apart before anything is trained: it is fitted to the rows cut on the right and to the same rows cut on
the left, and the side with the lower log loss on held-out rows is taken.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal

import numpy as np

from leantune.system import distributed
from leantune.training.build import Run, build_classifier
from leantune.training.dataset import prepare_data
from leantune.training.head_init import fit_probe

LEAST_SHARE = 0.1
"""Share of training rows that are cut, below which the end of a text is not looked at."""
MOST_ROWS = 2_000
"""That the probes are fitted to."""
LEAST_GAIN = 0.01
"""By what share of the log loss the left must be better than the right, which is what other tools cut."""


def choose_truncation_side(run: Run) -> None:
    """Resolve ``truncation_side`` in the recipe of ``run``, and take its rows as they are cut so."""
    if run.recipe.truncation_side is not None:
        return
    side: Literal["left", "right"] = "right"
    lengths, full_lengths = run.data.train.lengths, run.data.train.full_lengths
    share = float((full_lengths > lengths).mean())
    if share >= LEAST_SHARE:
        started = time.perf_counter()
        cut_on_left = prepare_data(replace(run.recipe, truncation_side="left"))
        with run.console.status("finding out which end of a text says more"):
            classifier = build_classifier(run)
            rng = np.random.default_rng([run.recipe.seed, 0x51DE])
            rows = np.sort(rng.permutation(len(lengths))[:MOST_ROWS])
            right, left = (
                fit_probe(
                    classifier, each.train[rows], run.recipe.eval_batch_size, seed=run.recipe.seed
                ).log_loss
                for each in (run.data, cut_on_left)
            )
        is_left = distributed.gather(left < (1 - LEAST_GAIN) * right)[0]
        if is_left:
            side, run.data = "left", cut_on_left
        run.console.print(
            f"{100 * share:.0f} % of the texts are cut: the {'end' if is_left else 'beginning'} is kept "
            f"(truncation_side={side}). Log loss of a linear probe: {left:.3f} with the end, {right:.3f} with the "
            f"beginning; {time.perf_counter() - started:.0f} s",
            soft_wrap=True,
        )
    run.recipe = replace(run.recipe, truncation_side=side)
