"""Messages before the first step of a run: what was read, and what could go wrong."""

from __future__ import annotations

import difflib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from leantune.adalora.budget import ParameterPlan, full_rank
from leantune.config import Recipe
from leantune.config.record.run import DataRecord, RowsRecord
from leantune.data.labels import look_alikes
from leantune.data.tokens.dataset import LabelledRows
from leantune.kernels.choose import Choice
from leantune.kernels.interface import SWITCH
from leantune.model.classifier import Classifier
from leantune.model.families import FAMILIES
from leantune.model.padded import PaddedClassifier
from leantune.system.hardware import why_slow
from leantune.system.messages import MAX_COMPARED, listed, shown
from leantune.training.before.dataset import token_folder
from leantune.training.selection import KEEP_LAST

REPEATS = {
    "duplicate_rows": "duplicates",
    "conflicting_rows": "rows whose text also has another label",
    "rows_also_in_train": "rows that are also in train",
    "rows_also_in_validation": "rows that are also in validation",
}
"""Names of the counts of equal rows in terminal messages."""

FEW_OF_A_CLASS = 2
"""Classes with at most this many rows may be misspelled."""
NEAR = 0.8
"""Least `difflib` similarity to another class name at which a class may be misspelled."""
MAX_RARE = 20
"""Skip the typo check above this many rare classes."""

PADDING_TOLERANCE = 1e-3
"""Report changes above this; smaller ones are rounding."""


def data_lines(description: DataRecord, max_length: int) -> Iterator[str]:
    """Describe what was read and how much truncation cut off, one line per part."""
    parts = description.parts()
    for part, rows in parts.items():
        cut = rows.truncated_rows or 0
        share = 100 * cut / rows.rows
        yield (
            f"{part}: {rows.rows:,} rows, {rows.tokens:,} tokens, "
            f"{cut:,} cut to {max_length} tokens ({share:.1f} %){_left_out(rows)}"
        )
    repeats = [
        f"{part} has {count:,} {what}"
        for part, rows in parts.items()
        for key, what in REPEATS.items()
        if (count := getattr(rows, key))
    ]
    if repeats:
        yield f"warning: equal texts: {'; '.join(repeats)}"
    if description.validation is None:
        yield (
            "no rows are held out for measurement: give test=FILE or validation=FILE, or hold some out with "
            "validation_size=N; the last checkpoint is used"
        )
    counts = Counter(description.train.label_counts)
    if description.validation is not None:
        counts.update(description.validation.label_counts)
    alone = sorted(name for name, count in counts.items() if count == 1)
    if alone:
        yield f"warning: classes with a single row: {listed(alone)}"
    mistyped = list(_mistyped(counts))
    if mistyped:
        yield f"warning: rare classes that may be misspelled: {'; '.join(mistyped)}"
    alike = list(look_alikes(description.train.label_counts))
    if alike:
        yield f"warning: classes that look the same: {'; '.join(alike)}. If they are one class, spell it the same way"


def _left_out(rows: RowsRecord) -> str:
    """Return how many rows of a part are left out and why, after a comma; empty if none are."""
    reasons = {
        "without text": rows.blank_rows,
        "with a label that training does not have": rows.unknown_label_rows,
    }
    return "".join(f", left out {count:,} rows {why}" for why, count in reasons.items() if count)


def _mistyped(counts: Mapping[str, int]) -> Iterator[str]:
    """Rare classes named almost like a class with more rows, each with that class; nothing if many are rare."""
    rare = {name: count for name, count in counts.items() if count <= FEW_OF_A_CLASS}
    if len(rare) > MAX_RARE or len(counts) > MAX_COMPARED:
        return
    for name, count in rare.items():
        others = [each for each in counts if counts[each] > FEW_OF_A_CLASS]
        for near in difflib.get_close_matches(name, others, 1, NEAR):
            yield f"{shown(name)} ({count} rows) and {shown(near)} ({counts[near]:,})"


def rank_lines(plan: ParameterPlan) -> Iterator[str]:
    """Yield a line if the parameter limit is higher than the ranks can use."""
    if plan.limit is not None and plan.targets and plan.init_rank == full_rank(plan.targets):
        yield (
            f"init_rank is {plan.init_rank}, the rank of the largest target: {plan.limit - plan.initial:,} of "
            f"max_trainable_params={plan.limit:,} are not used"
        )


def slow_lines(
    classifier: Classifier, rows: LabelledRows, recipe: Recipe, *, kernels: Choice, precision: str
) -> Iterator[str]:
    """Yield a line for each thing that makes a run slower than it could be, and what would help.

    Args:
        classifier: on the device that computes.
        rows: training rows.
        recipe: the recipe of the run.
        kernels: the kernels of ``classifier``; native ones compute in bf16 only.
        precision: type of the encoder's numbers.
    """
    device = classifier.device
    reasons = list(why_slow(device, precision, token_folder()))
    if not classifier.is_packed:
        reasons.append(_why_padded(classifier, rows, recipe.batch_size))
    elif device.type == "cpu" and precision == "bf16" and kernels.reason and os.environ.get(SWITCH) != "0":
        reasons.append(f"native kernels are not used: {kernels.reason} ({SWITCH}=0 accepts that)")
    return (f"slower than it could be: {reason}" for reason in reasons)


def _why_padded(classifier: Classifier, rows: LabelledRows, batch_size: int) -> str:
    lengths = rows.lengths[np.random.default_rng(0).permutation(len(rows))]
    batches = np.split(lengths, range(batch_size, len(lengths), batch_size))
    computed = sum(len(batch) * int(batch.max()) for batch in batches)
    padding = 1 - int(lengths.sum(dtype=np.int64)) / computed
    return (
        f"{classifier.settings['model_type']} is computed by transformers, padded: {100 * padding:.0f} % of the tokens "
        f"are padding. Without padding, leantune computes {', '.join(FAMILIES)}"
    )


def disk_lines(folder: Path, plan: ParameterPlan, *, keep_best: int) -> Iterator[str]:
    """Yield a warning if the disk is too small for what the run will write."""
    # each trainable number is saved with two moments and two averages; a new checkpoint is complete before an
    # old one is removed; adapter/ and merged/ are fp32 and complete before they replace older ones
    checkpoints = (keep_best + KEEP_LAST + 1) * 5 * plan.initial
    needed = 4 * (checkpoints + plan.total + plan.initial)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        yield (
            f"warning: {free // 2**20:,} MiB are free for {folder}, but checkpoints and artefacts need up to "
            f"{-(-needed // 2**20):,} MiB: make room, lower keep_best={keep_best}, or choose another output"
        )


def padding_lines(classifier: PaddedClassifier, rows: LabelledRows, max_length: int) -> Iterator[str]:
    """Yield a warning if padding changes the fp32 logits of ``classifier``."""
    tokens = rows[np.array([rows.lengths.argmin()])].tokens()[0].tolist()
    model_type = classifier.settings["model_type"]
    change = _change_by_padding(classifier.eval(), tokens, min(len(tokens), max_length - len(tokens)))
    if change > PADDING_TOLERANCE:
        yield (
            f"warning: padding changes the logits of a text by {100 * change:.2g} % in "
            f"{model_type}, which leantune runs padded: predictions depend on the other rows of the batch"
        )


@torch.inference_mode()
def _change_by_padding(classifier: PaddedClassifier, token_ids: Sequence[int], num_padding: int) -> float:
    """The change of a text's logits when padding follows it, as a fraction of the largest logit.

    It is only rounding, unless the architecture lets padding contribute.

    Args:
        classifier: in fp32, in evaluation mode.
        token_ids: token ids of one text, with special tokens.
        num_padding: number of padding tokens after it.
    """
    alone = torch.tensor([token_ids])
    longer = F.pad(alone, (0, num_padding), value=classifier.settings.get("pad_token_id") or 0)
    is_real = F.pad(torch.ones_like(alone), (0, num_padding))
    expected, padded = (
        classifier.logits(classifier.padded_features(ids, mask, torch.zeros_like(ids)))
        for ids, mask in ((alone, torch.ones_like(alone)), (longer, is_real))
    )
    return float((padded - expected).abs().max() / expected.abs().max())
