"""Choose which end of a long text is cut off (``truncation_side``), if the recipe leaves that open.

A review gives its verdict at the end; a news text says what it is about at the beginning. A linear probe on the
pretrained encoder tells the two apart before training: it is fitted to the rows cut on the right and to the same rows
cut on the left, and the side with the lower log loss on held-out rows wins.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from leantune.config import Recipe
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.table import tokenize
from leantune.system import distributed
from leantune.training.before.dataset import prepare_data, token_folder, tokenizer_of
from leantune.training.before.head_init import fit_probe
from leantune.training.build import Run, build_classifier
from leantune.training.history import preparing

LEAST_SHARE = 0.1
"""Skip the comparison if a smaller share of the training rows is cut."""
MOST_ROWS = 2_000
"""Most rows to fit the probes on."""
LEAST_GAIN = 0.01
"""Least relative gain in log loss for leaving the tokenizer's own side, which other tools use."""
OTHER: Mapping[str, Literal["left", "right"]] = {"right": "left", "left": "right"}
KEPT = {"right": "beginning", "left": "end"}
"""The end of the text that is kept, by the side that is cut."""


def choose_truncation_side(run: Run) -> None:
    """Fill in ``truncation_side`` in the recipe of ``run``, and truncate its rows on that side."""
    if run.recipe.truncation_side is not None:
        return
    other = OTHER[run.data.tokenizer.settings.truncation_side]
    own = chosen = OTHER[other]
    lengths, full_lengths = run.data.train.lengths, run.data.train.full_lengths
    share = float((full_lengths > lengths).mean())
    if share >= LEAST_SHARE:
        started = time.perf_counter()
        changed = replace(run.recipe, truncation_side=other)
        with preparing(run.console, "finding out which end of a text tells more"):
            loss, loss_of_other = _log_losses(run, changed)
            if distributed.gather(loss_of_other < (1 - LEAST_GAIN) * loss)[0]:
                chosen, run.data = other, prepare_data(changed, sources=run.data.sources)
        run.console.print(
            f"{100 * share:.0f} % of the texts are cut: the {KEPT[chosen]} is kept (truncation_side={chosen}). "
            f"Log loss of a linear probe: {loss:.3f} with the {KEPT[own]}, {loss_of_other:.3f} with the {KEPT[other]}; "
            f"{time.perf_counter() - started:.0f} s",
            soft_wrap=True,
        )
    run.recipe = replace(run.recipe, truncation_side=chosen)


def _log_losses(run: Run, changed: Recipe) -> tuple[float, float]:
    """Log losses of a linear probe on some training rows, cut by the run's recipe and by ``changed``."""
    classifier = build_classifier(run)
    order = np.random.default_rng([run.recipe.seed, 0x51DE]).permutation(len(run.data.train))
    rows = run.data.train[np.sort(order[:MOST_ROWS])]
    table = tokenize(run.data.sources["train"], tokenizer_of(changed), token_folder())
    loss, loss_of_other = (
        fit_probe(classifier, each, run.recipe.eval_batch_size, seed=run.recipe.seed).log_loss
        for each in (rows, LabelledRows.of(table, rows.row_of, rows.label_ids))
    )
    return loss, loss_of_other
