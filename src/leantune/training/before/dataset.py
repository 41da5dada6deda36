"""From a recipe to token rows, labels and a schedule: everything known before weights are loaded."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from leantune.adalora.budget import ParameterPlan
from leantune.adalora.schedule import RankSchedule, steps_from
from leantune.assets.download import default_cache_dir, resolve_location
from leantune.config import Recipe
from leantune.config.classifier_file import InferenceSettings
from leantune.config.record.confidence import LengthsRecord
from leantune.config.record.run import DataRecord, RowsRecord, ScheduleRecord
from leantune.data.label_column import Label
from leantune.data.label_sets import counts_of, numbered
from leantune.data.labels import LabelMap
from leantune.data.split import automatic_size, stratified_holdout
from leantune.data.text.columns import Columns, columns_for
from leantune.data.text.read import ExampleSource, LabelUse, open_examples
from leantune.data.text.unusable import blank_rows_error, unknown_labels_error, with_known_labels
from leantune.data.tokens.dataset import LabelledRows
from leantune.data.tokens.table import TokenTable, tokenize
from leantune.data.tokens.tokenization import Tokenizer
from leantune.errors import DataError, UsageError
from leantune.model.classifier import Classifier
from leantune.model.hub import resolve_model

LENGTH_BINS = 20
FEW_LABELS = 20
"""Number of rows below which labels are never taken for texts."""
WORDS_OF_A_TEXT = 4
"""Mean number of words from which on labels may be texts."""

ENOUGH_HELD_OUT = 200
"""Number of held-out rows below which accuracies are compared with a warning."""


def few_held_out(num_rows: int) -> str:
    """Return the warning for few held-out rows."""
    return (
        f"warning: only {num_rows:,} held-out rows: accuracies differ by several points by chance. Hold out more with "
        "validation_size=N or validation=FILE"
    )


@dataclass(frozen=True, slots=True)
class PreparedData:
    """The rows of a run."""

    labels: LabelMap
    train: LabelledRows
    validation: LabelledRows
    """Empty if no rows are held out."""
    test: LabelledRows | None
    unlabelled: LabelledRows | None
    """Their class is -1."""
    tokenizer: Tokenizer
    description: DataRecord
    sources: Mapping[str, ExampleSource]
    """The sources of the rows by part; they can be read again."""
    tokenise_s: float

    @property
    def notes(self) -> list[str]:
        """Lines to print about choices made while reading the files, without repeats."""
        return list(dict.fromkeys(line for source in self.sources.values() for line in source.notes))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan:
    """The number of optimiser steps of a run and of its phases."""

    steps_per_epoch: int
    total_steps: int
    lr_warmup_steps: int
    ranks: RankSchedule

    def to_record(self) -> ScheduleRecord:
        """The plan as ``record.json`` holds it."""
        ranks = self.ranks
        return ScheduleRecord(
            total_steps=self.total_steps,
            steps_per_epoch=self.steps_per_epoch,
            lr_warmup_steps=self.lr_warmup_steps,
            warmup_steps=ranks.warmup_steps,
            final_steps=ranks.final_steps,
            prune_step=ranks.prune_step,
            allocate_every=ranks.allocate_every,
            init_budget=ranks.init_budget,
            target_budget=ranks.target_budget,
        )


def token_folder() -> Path:
    """The folder for cached token tables."""
    return default_cache_dir() / "tokens"


def columns_of(recipe: Recipe) -> Columns:
    """The columns that the recipe names."""
    return columns_for(InferenceSettings.of(recipe))


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The encoder's tokenizer, which truncates texts as the recipe says.

    Raises:
        UsageError: if the tokenizer does not exist or cannot be used.
    """
    return Tokenizer.pretrained(
        resolve_model(recipe.model, with_weights=False),
        recipe.max_length,
        truncation_side=recipe.truncation_side,
    )


def prepare_data(
    recipe: Recipe,
    *,
    sources: Mapping[str, ExampleSource] | None = None,
    on_rows: Callable[[str, int], None] = lambda what, rows: None,
) -> PreparedData:
    """Read, tokenize and split the rows of a run.

    Args:
        recipe: names the data, columns, labels and hold-out.
        sources: sources of the same rows that are already open; standard input can be read only once.
        on_rows: called with the part being read and the number of rows so far.

    Raises:
        DataError: for invalid rows or labels.
        UsageError: for a source or a tokenizer that does not exist or cannot be used.
    """
    started = time.perf_counter()
    tokenizer, columns = tokenizer_of(recipe), columns_of(recipe)
    opened = dict(sources or {})

    def read(part: str, location: str, labels: LabelUse = "required") -> tuple[ExampleSource, TokenTable]:
        if part not in opened:
            split = part if labels == "required" else "train"
            opened[part] = open_examples(resolve_location(location), columns, labels=labels, split=split)
        source = opened[part]
        return source, tokenize(source, tokenizer, token_folder(), on_rows=lambda rows: on_rows(part, rows))

    source, table = read("train", recipe.data)
    labels = label_map_of(source, table, order=recipe.labels or source.label_names)
    skip_unknown = recipe.unknown_test_labels == "skip"
    train = labelled_rows(source, table, labels)
    if recipe.validation:
        validation_source, validation_table = read("validation", recipe.validation)
        validation = labelled_rows(validation_source, validation_table, labels, skip_unknown=skip_unknown)
    else:
        validation_table = table
        kept, held_out = stratified_holdout(train.label_ids, _holdout_size(recipe, train), recipe.seed)
        train, validation = train[kept], train[held_out]
    test, test_table = None, None
    if recipe.test:
        test_source, test_table = read("test", recipe.test)
        test = labelled_rows(test_source, test_table, labels, skip_unknown=skip_unknown)
    unlabelled = None
    if recipe.unlabelled:
        _, rows = read("unlabelled", recipe.unlabelled, "ignore")
        unlabelled = LabelledRows.of(rows, np.arange(len(rows)), np.full(len(rows), -1))
    repeats = _repeats(train, validation, test)

    def left_out(table: TokenTable, rows: LabelledRows, part: str) -> dict[str, int]:
        if part == "validation" and not recipe.validation:
            return {}
        blank = int(table.is_blank.sum())
        unknown = 0 if part == "train" else len(table) - blank - len(rows)
        return {name: n for name, n in {"blank_rows": blank, "unknown_label_rows": unknown}.items() if n}

    def describe(location: str, table: TokenTable, rows: LabelledRows, part: str) -> RowsRecord:
        return describe_rows(location, table, rows, labels, repeats[part] | left_out(table, rows, part))

    description = DataRecord(
        train=describe(recipe.data, table, train, "train"),
        validation=describe(recipe.validation or recipe.data, validation_table, validation, "validation")
        if len(validation)
        else None,
        test=describe(recipe.test, test_table, test, "test") if recipe.test and test_table and test else None,
    )
    return PreparedData(
        labels,
        train,
        validation,
        test,
        unlabelled,
        tokenizer,
        description,
        opened,
        time.perf_counter() - started,
    )


def _holdout_size(recipe: Recipe, rows: LabelledRows) -> int | float:
    size = recipe.validation_size
    if size is None:
        return automatic_size(rows.label_ids)
    return int(size) if size >= 1 or size == 0 else size


def label_map_of(source: ExampleSource, table: TokenTable, *, order: Sequence[str] | None) -> LabelMap:
    """Return the classes of the training rows; ``order`` has their names in the order of their ids, or is None.

    Raises:
        DataError: if the labels cannot be classes.
    """
    labels = [
        label for label, blank in zip(table.label_texts, table.is_blank.tolist(), strict=True) if not blank
    ]
    _refuse_exchanged(source, table, labels)
    return LabelMap.of(labels, order=order, source_name=source.name, label_type=source.label_type)


def labelled_rows(
    source: ExampleSource, table: TokenTable, labels: LabelMap, *, skip_unknown: bool = False
) -> LabelledRows:
    """Return the rows of a token table with a text and a known label.

    Args:
        source: where the rows are from; its columns say whether rows with a blank text are left out.
        table: all its rows.
        labels: the classes.
        skip_unknown: whether rows with another label are left out.

    Raises:
        DataError: if there are rows to leave out that must not be.
    """
    texts = table.label_texts
    kept = ~table.is_blank
    if not kept.all() and not source.columns.skips_blank:
        raise blank_rows_error(source, np.flatnonzero(~kept).tolist())
    unknown = kept & ~np.array(with_known_labels(texts, labels.names, is_multi_label=labels.is_multi_label))
    if unknown.any() and not skip_unknown:
        advice = ", or leave these rows out with --unknown-test-labels skip (validation and test rows only)"
        raise unknown_labels_error(source, texts, np.flatnonzero(unknown).tolist(), labels.names, advice)
    rows = np.flatnonzero(kept & ~unknown)
    if not len(rows):
        raise DataError(
            "no rows are left: none has a text and a label of the training rows", path=source.name
        )
    ids = labels.encode(
        [texts[row] for row in rows.tolist()],
        source.name,
        rows=rows.tolist(),
        column=source.columns.label,
        locate=source.locate,
    )
    return LabelledRows.of(table, rows, ids)


def _refuse_exchanged(source: ExampleSource, table: TokenTable, labels: Sequence[Label]) -> None:
    """Refuse labels that look like texts: long, and nearly all different.

    Raises:
        DataError: naming the flags that exchange the columns.
    """
    names = {label for label in labels if isinstance(label, str)}
    if len(labels) < FEW_LABELS or len(names) < len(labels) / 2:
        return
    words = sum(len(name.split()) for name in names) / len(names)
    if words >= WORDS_OF_A_TEXT and words > float(np.median(table.full_lengths)):
        columns = source.columns
        raise DataError(
            f"{len(names):,} different labels of {words:.0f} words on average, and texts of "
            f"{np.median(table.full_lengths):.0f} tokens: text and label columns look exchanged; use --text-column "
            f"{shlex.quote(columns.label or '')} --label-column {shlex.quote(columns.text or '')}",
            path=source.name,
        )


def describe_rows(
    location: str, table: TokenTable, rows: LabelledRows, labels: LabelMap, repeats: Mapping[str, int]
) -> RowsRecord:
    """Describe one part of the data for ``record.json``; ``location`` is what the recipe says."""
    counts = counts_of(rows.label_ids, len(labels.names)).tolist()
    lengths = rows.lengths
    full_lengths = rows.full_lengths
    return RowsRecord(
        source=location,
        sha256=table.source_sha256,
        rows=len(rows),
        tokens=int(lengths.sum(dtype=np.int64)),
        truncated_rows=int((full_lengths > lengths).sum()),
        truncated_tokens=int((full_lengths - lengths).sum(dtype=np.int64)),
        label_counts=dict(zip(labels.names, counts, strict=True)),
        **repeats,
    )


def lengths_of(lengths: npt.NDArray[np.int32], max_length: int) -> LengthsRecord:
    """A histogram of text lengths before truncation, for at least one text.

    It covers 99 of 100 texts, and ``max_length`` if a text is longer: a few very long texts must not flatten it.
    """
    median, percentile_95, percentile_99 = (
        int(each) for each in np.percentile(lengths, (50, 95, 99), method="higher")
    )
    longest = int(lengths.max())
    width = max(1, math.ceil((max(percentile_99, min(longest, max_length)) + 1) / LENGTH_BINS))
    bins = np.minimum(lengths // width, LENGTH_BINS - 1)
    return LengthsRecord(
        width=width,
        counts=np.bincount(bins, minlength=LENGTH_BINS).tolist(),
        median=median,
        percentile_95=percentile_95,
        longest=longest,
        max_length=max_length,
    )


def _repeats(
    train: LabelledRows, validation: LabelledRows, test: LabelledRows | None
) -> dict[str, dict[str, int]]:
    """Count rows that are equal to the model, by part.

    Counted are rows equal within a part, equal to a training row, and test rows equal to a validation row: validation
    rows choose the checkpoint and may be trained on afterwards.
    """
    in_train, in_validation = train.hashes(), validation.hashes()
    repeats = {
        "train": count_repeats(in_train, train.label_ids),
        "validation": count_repeats(in_validation, validation.label_ids)
        | {"rows_also_in_train": int(np.isin(in_validation, in_train).sum())},
    }
    if test is not None:
        in_test = test.hashes()
        repeats["test"] = count_repeats(in_test, test.label_ids) | {
            "rows_also_in_train": int(np.isin(in_test, in_train).sum()),
            "rows_also_in_validation": int(np.isin(in_test, in_validation).sum()),
        }
    return repeats


def count_repeats(hashes: npt.NDArray[np.uint64], label_ids: npt.NDArray[np.int64]) -> dict[str, int]:
    """Count rows that repeat an earlier one, and rows that have an equal row with a different label or label set."""
    label_ids = numbered(label_ids)
    order = np.lexsort((label_ids, hashes))
    ordered = label_ids[order]
    _, first, sizes = np.unique(hashes[order], return_index=True, return_counts=True)
    is_conflicting = ordered[first] != ordered[first + sizes - 1]  # smallest and largest label of equal rows
    return {
        "duplicate_rows": len(hashes) - len(first),
        "conflicting_rows": int(sizes[is_conflicting].sum()),
    }


def plan_steps(recipe: Recipe, parameters: ParameterPlan, num_rows: int) -> StepPlan:
    """The schedule of a run over ``num_rows`` training rows.

    Raises:
        DataError: if no row is left to train on.
        UsageError: if the phases leave no step to prune in, or there are fewer than 3 steps.
    """
    if num_rows == 0:
        raise DataError("no training rows are left after the hold-out")
    steps_per_epoch = math.ceil(num_rows / recipe.batch_size)
    assert recipe.epochs is not None, "with_pace sets it"
    total = steps_per_epoch * recipe.epochs
    if total < 3:
        raise UsageError(
            f"{num_rows} rows in batches of {recipe.batch_size} for {recipe.epochs} epochs are {total} steps, "
            "expected at least 3 to warm up, prune and finish: lower batch_size or raise epochs"
        )
    return StepPlan(
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        lr_warmup_steps=lr_warmup_steps(recipe, total),
        ranks=RankSchedule(
            init_budget=parameters.init_budget,
            target_budget=parameters.target_budget,
            total_steps=total,
            warmup_steps=steps_from(recipe.advanced.rank_warmup, total),
            final_steps=steps_from(recipe.advanced.rank_final, total),
            allocate_every=max(1, steps_from(recipe.advanced.allocate_every, total)),
        ),
    )


def lr_warmup_steps(recipe: Recipe, total_steps: int) -> int:
    """Number of steps in which the learning rate rises, at most all steps."""
    return min(steps_from(recipe.advanced.warmup, total_steps), total_steps)


def check_max_length(recipe: Recipe, shell: Classifier) -> None:
    """Refuse a ``max_length`` beyond the positions of the model.

    Raises:
        UsageError: naming the largest possible value.
    """
    longest = shell.max_tokens
    if longest is not None and recipe.max_length > longest:
        raise UsageError(
            f"max_length={recipe.max_length} is more than the {longest} tokens that "
            f"{recipe.model} can take; use max_length={longest} or less"
        )
