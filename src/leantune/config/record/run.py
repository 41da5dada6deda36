"""``record.json`` of a run: what is in it, its one reader and its one writer.

The classes say which types the values have; ``record.schema.json``, the published form, is made from them by
``python -m leantune.config.record.schema``. A record may come from a stranger, from a disk that was full, or from a
version that wrote less or more: keys that are not known here are passed over, what is absent is None, and whoever reads
says, by the class, which parts are needed.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from leantune.config.record.confidence import ConfidencesRecord, LengthsRecord
from leantune.config.record.in_schema import Amount, Count, InSchema, Interval95, Positive, Rate
from leantune.errors import CheckpointError, UsageError
from leantune.system.atomic import write_text
from leantune.system.checksums import FileRecord
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json
from leantune.system.messages import place_name

RECORD = "record.json"
"""What makes a folder a run."""
WRITTEN_AS_NULL = {"is_written": True}
"""Metadata of a field whose None says something; another None of its kind is left out of the file."""


RunId = Annotated[str, InSchema(pattern="^[0-9a-f]{32}$")]
Moment = Annotated[str, InSchema(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Status = Literal["running", "interrupted", "finished"]
Sha256 = Annotated[str, InSchema(pattern="^[0-9a-f]{64}$")]
Versions = Annotated[dict[str, str], InSchema("Of Python and of the libraries that decide numbers.")]
RecipeValues = Annotated[
    dict[str, Any], InSchema("The resolved recipe, every key; docs/recipe.md says what each means.")
]
Ranks = Annotated[
    dict[str, Count], InSchema("Live triplets by adapted layer, 0 where everything was pruned.")
]
Timings = Annotated[
    dict[str, Amount],
    InSchema("save_s: checkpoints, in the last process of the run; baseline_s: measuring the probe."),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine, and whose kernels compute on it."""

    device: str
    cpu: str
    cores: Positive
    cpu_limit: Annotated[
        float | None, InSchema("CPU time in a second that the cgroups allow; null: no limit.")
    ] = field(default=None, metadata=WRITTEN_AS_NULL)
    memory_bytes: Count
    gpu: str | None
    onednn_max_cpu_isa: Annotated[str | None, InSchema("ONEDNN_MAX_CPU_ISA, where it was set.")] = field(
        default=None, metadata=WRITTEN_AS_NULL
    )
    kernels: Annotated[
        str | None,
        InSchema("Who computed bf16 on the CPU: native, and for which instructions, or torch, and why."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class names in the order of their ids, and their hash, which is checked wherever the model is used."""

    names: Annotated[list[str], InSchema(minItems=2, uniqueItems=True)]
    sha256: Sha256
    problem_type: Annotated[
        str | None, InSchema("Where a text may have several.", enum=["multi_label_classification"])
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecord:
    """One part of the data.

    Rows are equal if they are equal to the model: same tokens, same length before truncation. Duplicate rows repeat an
    earlier one; conflicting rows have an equal one under another label.
    """

    source: str
    sha256: Sha256
    rows: Positive
    tokens: Count
    truncated_rows: Count | None = None
    truncated_tokens: Count | None = None
    label_counts: dict[str, Count]
    duplicate_rows: Count | None = None
    conflicting_rows: Count | None = None
    rows_also_in_train: Count | None = None
    rows_also_in_validation: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Training, validation and test rows; null where there are none."""

    train: RowsRecord
    validation: RowsRecord | None = field(default=None, metadata=WRITTEN_AS_NULL)
    test: RowsRecord | None = field(default=None, metadata=WRITTEN_AS_NULL)

    def parts(self) -> dict[str, RowsRecord]:
        """The parts that exist, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: rows for name, rows in named.items() if rows is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRecord:
    """An adapted layer; its final rank is null until the ranks are final."""

    name: str
    in_features: Positive
    out_features: Positive
    initial_rank: Count
    final_rank: Count | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametersRecord:
    """Trainable parameters: planned, then, once the ranks are final, counted."""

    budget: Positive | None
    initial: Positive
    final: Positive | None
    total: Positive
    head: Count
    adapters: Count
    adapters_final: Count | None
    modules: Annotated[list[ModuleRecord], InSchema(minItems=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """In optimiser steps; budgets in triplets."""

    total_steps: Count
    steps_per_epoch: Count | None = None
    lr_warmup_steps: Count
    warmup_steps: Count
    final_steps: Count
    prune_step: Count | None = None
    allocate_every: Count
    init_budget: Count
    target_budget: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeasures:
    """One class, its rates and its rows; a rate is null where there is nothing to count."""

    label: str
    precision: Rate | None
    recall: Rate | None
    f1: Rate | None
    support: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """An evaluation. A cell of the confusion matrix is (true class id, predicted class id, rows).

    For texts with several labels, the accuracy is the share of texts whose label set is exactly right, the log loss is
    summed over classes, the calibration error is over all pairs of a text and a class, and micro F1, LRAP and Hamming
    loss are given.
    """

    num_rows: Positive
    accuracy: Rate
    accuracy_interval: Interval95
    macro_f1: Rate
    macro_f1_interval: Interval95
    log_loss: Amount
    calibration_error: Rate
    per_class: list[ClassMeasures]
    confusion: list[tuple[Count, Count, Count]] | None = None
    micro_f1: Rate | None = None
    micro_f1_interval: Interval95 | None = None
    lrap: Annotated[Rate | None, InSchema("Label ranking average precision.")] = None
    lrap_interval: Interval95 | None = None
    hamming_loss: Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord:
    """What the selected checkpoint reached."""

    validation: Measures | None
    test: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """The linear probe, and the training rows that it was fitted to."""

    name: str
    rows: Positive | None = None
    validation: Measures | None
    test: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The pretrained encoder and how it computed."""

    source: str
    base_model: Annotated[str | None, InSchema("The encoder by the name that others can load it under.")] = (
        None
    )
    sha256: Annotated[str | None, InSchema("Of the pretrained weights.")] = None
    architecture: str
    attention: Annotated[str, InSchema(enum=["packed", "padded"])]
    precision: Annotated[str, InSchema(enum=["bf16", "fp16", "fp32"])]
    frozen_products: Annotated[
        str | None, InSchema("Type of the products with frozen weights while training.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """A saved step, evaluated unless no rows were held out."""

    step: Positive
    epoch: Amount
    validation: Measures | None = field(default=None, metadata=WRITTEN_AS_NULL)
    kept: bool
    ranks_final: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedRecord:
    """The checkpoint that was taken, by which metric and rule, and what the choice is worth."""

    step: Positive
    metric: Annotated[str, InSchema(enum=["accuracy", "macro_f1", "log_loss", "micro_f1", "lrap"])]
    rule: Annotated[str | None, InSchema(enum=["one-se", "best", "last"])] = None
    comparison: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """A short run of ``effort=balanced``; without measures if it diverged or did not fit."""

    method: str
    targets: str
    learning_rate: Amount
    steps: Count
    accuracy: Rate | None
    log_loss: Amount | None
    seconds: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoLabelRecord:
    """Rows without labels, and what a first run on the labelled ones made of them.

    Rows that are labelled, too, for training or validation, are never taken.
    """

    source: str
    sha256: Sha256
    rows: Positive
    least_probability: Annotated[Rate, InSchema("Of the most probable class, for a row to be taken.")]
    taken: Count
    label_counts: dict[str, Count]
    rows_also_labelled: Count
    rows_also_in_test: Annotated[
        int | None,
        InSchema("Where there are any, the test figures are those of texts that were trained on.", minimum=0),
    ] = None
    seconds: Amount
    file: Annotated[FileRecord | None, InSchema("pseudo_labels.csv, once it is written.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRecord:
    """The epoch on training and validation rows after the selection."""

    rows: Positive
    steps: Positive
    seconds: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactRecord:
    """A published folder.

    Its files are every one but README.md by its path, checked when the artefact is loaded; early runs have none.
    """

    max_logit_difference: Annotated[
        Amount, InSchema("Of the trained model and the artefact, reloaded from disk: the largest.")
    ]
    files: dict[str, FileRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactsRecord:
    """The two standard forms of a finished run."""

    adapter: ArtefactRecord
    merged: ArtefactRecord

    def __getitem__(self, name: str) -> ArtefactRecord:
        """By the name of the folder: ``adapter`` or ``merged``."""
        return {"adapter": self.adapter, "merged": self.merged}[name]


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """What was done, with what, and what came of it; a part that is not (yet) there is None.

    Written when a run starts and again when it ends.
    """

    leantune: str | None = None
    run_id: RunId | None = None
    created: Moment | None = None
    status: Status | None = None
    command: list[str] | None = None
    directory: Annotated[
        str | None, InSchema("Where the command was typed: relative paths are from there.")
    ] = None
    versions: Versions | None = None
    hardware: Hardware | None = None
    processes: Positive | None = None
    recipe: RecipeValues | None = None
    labels: Labels | None = None
    data: DataRecord | None = None
    lengths: LengthsRecord | None = None
    model: ModelRecord | None = None
    parameters: ParametersRecord | None = None
    schedule: ScheduleRecord | None = None
    race: list[CandidateRecord] | None = None
    pseudo_labels: PseudoLabelRecord | None = None
    baseline: BaselineRecord | None = field(default=None, metadata=WRITTEN_AS_NULL)
    timings: Timings | None = None
    skipped_steps: Count | None = None
    checkpoints: list[CheckpointRecord] | None = None
    selected: SelectedRecord | None = None
    metrics: MetricsRecord | None = None
    confidence: ConfidencesRecord | None = None
    ranks: Ranks | None = None
    refit: RefitRecord | None = None
    artefacts: ArtefactsRecord | None = None


@dataclass(slots=True, kw_only=True)
class BegunRecord(RunRecord):
    """What every run writes before its first step, and needs to go on."""

    leantune: str
    run_id: RunId
    created: Moment
    status: Status
    command: list[str]
    versions: Versions
    hardware: Hardware
    processes: Positive
    recipe: RecipeValues
    labels: Labels
    data: DataRecord
    model: ModelRecord
    parameters: ParametersRecord
    schedule: ScheduleRecord
    timings: Timings


@dataclass(slots=True, kw_only=True)
class FinishedRecord(RunRecord):
    """What a run must say to be used."""

    run_id: RunId
    recipe: RecipeValues
    labels: Labels
    artefacts: ArtefactsRecord


R = TypeVar("R", bound=RunRecord)


def needed(kind: type[RunRecord]) -> list[str]:
    """The parts that a record of this kind must have."""
    return [each.name for each in fields(kind) if each.default is MISSING]


def read_record(run: Path, kind: type[R]) -> R:
    """The record of a run.

    Args:
        run: the run folder.
        kind: which parts the caller cannot do without: `RunRecord` for none.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if the record is damaged or lacks a part that ``kind`` needs.
        UnsafeFileError: if it is a link that leads out of the run.
    """
    path = run / RECORD
    if not path.is_file():
        runs = [place_name(str(each.parent)) for each in sorted(run.glob(f"*/{RECORD}"))[:3]]
        inside = f", such as {', '.join(runs)} in it" if runs else ""
        raise UsageError(
            f"{run}: no run found (no {RECORD}); give the output folder of 'leantune train'{inside}"
        )
    record = read_json(entry_of(run, RECORD), RunRecord)
    parts = {each.name: getattr(record, each.name) for each in fields(record)}
    absent = [name for name in needed(kind) if parts[name] is None]
    if absent:
        raise CheckpointError(f"{path}: damaged: no {absent[0]} in it")
    return kind(**parts)


def read_finished_record(run: Path) -> FinishedRecord:
    """The record of a run that can be used.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if the run did not finish, or the record is damaged.
    """
    status = read_record(run, RunRecord).status
    if status is None:
        raise CheckpointError(f"{run / RECORD}: damaged: no status in it")
    if status != "finished":
        raise CheckpointError(
            f"{run}: the run is not finished; continue it with: leantune train --resume {shlex.quote(str(run))}"
        )
    return read_record(run, FinishedRecord)


def write_record(run: Path, record: RunRecord) -> None:
    """Replace the record of a run, whole or not at all.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    write_text(entry_of(run, RECORD), json.dumps(to_json(record), indent=1, ensure_ascii=False) + "\n")


def to_json(value: Any) -> Any:
    """A record, or a part of one, as JSON types: what is absent is left out, but where that says something."""
    if is_dataclass(value):
        pairs = [(each, getattr(value, each.name)) for each in fields(value)]
        return {
            each.name: to_json(part)
            for each, part in pairs
            if part is not None or each.default is MISSING or each.metadata
        }
    if isinstance(value, dict):
        return {name: to_json(each) for name, each in value.items()}
    return [to_json(each) for each in value] if isinstance(value, list | tuple) else value
