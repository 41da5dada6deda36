"""The content of a run's ``record.json``, and the functions that read and write it.

The classes define the types of the values; ``python -m leantune.config.record.schema`` makes the published
``record.schema.json`` from them. A record may come from an unknown source, from a full disk, or from another version of
leantune. Unknown keys are therefore ignored, absent values are None, and the caller chooses a class that says which
parts are required.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from leantune.config.problem_type import LabelType
from leantune.config.record.confidence import ConfidencesRecord, LengthsRecord
from leantune.config.record.in_schema import Amount, Count, InSchema, Interval95, Positive, Rate
from leantune.errors import CheckpointError, UsageError
from leantune.system.atomic import write_text
from leantune.system.checksums import FileRecord
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json
from leantune.system.messages import place_name

RECORD = "record.json"
"""Name of the file that makes a folder a run."""
WRITTEN_AS_NULL = {"is_written": True}
"""Metadata of a field that is written as null; other None values are omitted from the file."""


RunId = Annotated[str, InSchema(pattern="^[0-9a-f]{32}$")]
Moment = Annotated[str, InSchema(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
Status = Literal["running", "interrupted", "finished"]
Sha256 = Annotated[str, InSchema(pattern="^[0-9a-f]{64}$")]
Versions = Annotated[dict[str, str], InSchema("Versions of Python and of the libraries that affect results.")]
RecipeValues = Annotated[
    dict[str, Any], InSchema("The resolved recipe with every key; docs/recipe.md explains the keys.")
]
Ranks = Annotated[
    dict[str, Count], InSchema("Remaining triplets of each adapted layer; 0 if all were pruned.")
]
Timings = Annotated[
    dict[str, Amount],
    InSchema(
        "Seconds; save_s: writing checkpoints, in the last process of the run; baseline_s: measuring the probe."
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine and the kernels used on it."""

    device: str
    cpu: str
    cores: Positive
    cpu_limit: Annotated[
        float | None, InSchema("CPU seconds per second allowed by the cgroups; null: no limit.")
    ] = field(default=None, metadata=WRITTEN_AS_NULL)
    memory_bytes: Count
    gpu: str | None
    onednn_max_cpu_isa: Annotated[str | None, InSchema("Value of ONEDNN_MAX_CPU_ISA, if set.")] = field(
        default=None, metadata=WRITTEN_AS_NULL
    )
    kernels: Annotated[
        str | None,
        InSchema("Kernels for bf16 on the CPU: native with its instructions, or torch with the reason."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class names in the order of their ids, with a hash that is checked whenever the model is loaded."""

    names: Annotated[list[str], InSchema(minItems=2, uniqueItems=True)]
    sha256: Sha256
    problem_type: Annotated[
        str | None, InSchema("Present if a text may have several.", enum=["multi_label_classification"])
    ] = None
    label_type: Annotated[LabelType | None, InSchema("The type of the labels if they are not texts.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecord:
    """One part of the data.

    Rows are equal if they are the same to the model: same tokens and same length before truncation. Duplicate rows
    repeat an earlier row; conflicting rows equal a row with another label.
    Rows that are left out count in no other number.
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
    blank_rows: Annotated[Count | None, InSchema("Rows left out because their text is blank.")] = None
    unknown_label_rows: Annotated[
        Count | None, InSchema("Rows left out because no training row has their label.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Training, validation and test rows; null for parts that do not exist."""

    train: RowsRecord
    validation: RowsRecord | None = field(default=None, metadata=WRITTEN_AS_NULL)
    test: RowsRecord | None = field(default=None, metadata=WRITTEN_AS_NULL)

    def parts(self) -> dict[str, RowsRecord]:
        """Return the parts that exist, by name."""
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
    """Trainable parameters, planned at first and counted once the ranks are final."""

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
    """The schedule of a run, in optimiser steps; its budgets are in triplets."""

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
    """The rates and the rows of one class; a rate is null if there is nothing to count."""

    label: str
    precision: Rate | None
    recall: Rate | None
    f1: Rate | None
    support: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How often a classifier is right. Micro F1 is given for texts with several labels.

    For these texts, the accuracy is the share of texts whose label set is exactly right.
    """

    num_rows: Positive
    accuracy: Rate
    accuracy_interval: Interval95
    macro_f1: Rate
    macro_f1_interval: Interval95
    micro_f1: Rate | None = None
    micro_f1_interval: Interval95 | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures(Rates):
    """An evaluation. A cell of the confusion matrix is (true class id, predicted class id, rows).

    For texts with several labels, the log loss is summed over classes, the calibration error covers all pairs of a text
    and a class, and LRAP and Hamming loss are given.
    """

    log_loss: Amount
    calibration_error: Rate
    per_class: list[ClassMeasures]
    confusion: list[tuple[Count, Count, Count]] | None = None
    lrap: Annotated[Rate | None, InSchema("Label ranking average precision.")] = None
    lrap_interval: Interval95 | None = None
    hamming_loss: Rate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord:
    """Measures of the selected checkpoint."""

    validation: Measures | None
    test: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """The linear probe and the number of training rows it was fitted to."""

    name: str
    rows: Positive | None = None
    validation: Measures | None
    test: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WordBaselineRecord:
    """A linear SVM on the words of whole texts, and the number of training rows it was fitted to."""

    name: str
    rows: Positive
    seconds: Amount
    validation: Rates | None
    test: Rates | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The pretrained encoder and its computation settings."""

    source: str
    base_model: Annotated[
        str | None, InSchema("Public name of the encoder, under which others can load it.")
    ] = None
    sha256: Annotated[str | None, InSchema("SHA-256 of the pretrained weights.")] = None
    architecture: str
    attention: Annotated[str, InSchema(enum=["packed", "padded"])]
    precision: Annotated[str, InSchema(enum=["bf16", "fp16", "fp32"])]
    frozen_products: Annotated[
        str | None, InSchema("Type of the products with frozen weights during training.")
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
    """The selected checkpoint, with the metric and rule of the selection and a comparison with another checkpoint."""

    step: Positive
    metric: Annotated[str, InSchema(enum=["accuracy", "macro_f1", "log_loss", "micro_f1", "lrap"])]
    rule: Annotated[str | None, InSchema(enum=["one-se", "best", "last"])] = None
    comparison: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord:
    """A short run of ``effort=balanced``; its measures are null if it diverged or did not fit the limit."""

    method: str
    targets: str
    learning_rate: Amount
    steps: Count
    accuracy: Rate | None
    log_loss: Amount | None
    seconds: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class PseudoLabelRecord:
    """Unlabelled rows and the labels that a first run on the labelled rows gave them.

    Rows that are also among the labelled training or validation rows are never taken.
    """

    source: str
    sha256: Sha256
    rows: Positive
    least_probability: Annotated[
        Rate, InSchema("Smallest probability of the most probable class for a row to be taken.")
    ]
    taken: Count
    label_counts: dict[str, Count]
    rows_also_labelled: Count
    rows_also_in_test: Annotated[
        int | None,
        InSchema("If above 0, the test measures include texts that were trained on.", minimum=0),
    ] = None
    seconds: Amount
    file: Annotated[FileRecord | None, InSchema("The file pseudo_labels.csv, once written.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRecord:
    """The epoch on training and validation rows after the selection."""

    rows: Positive
    steps: Positive
    seconds: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactRecord:
    """A folder of published weights.

    Its files are listed by path, except README.md, and checked when the artefact is loaded. Early runs have no list.
    """

    max_logit_difference: Annotated[
        Amount,
        InSchema(
            "Largest difference between logits of the trained model and of the artefact reloaded from disk."
        ),
    ]
    files: dict[str, FileRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactsRecord:
    """The two standard forms of a finished run."""

    adapter: ArtefactRecord
    merged: ArtefactRecord

    def __getitem__(self, name: str) -> ArtefactRecord:
        """Return the artefact in the folder ``adapter`` or ``merged``."""
        return {"adapter": self.adapter, "merged": self.merged}[name]


@dataclass(slots=True, kw_only=True)
class RunRecord:
    """The inputs, settings and results of a run; parts that do not exist (yet) are absent.

    The record is written when a run starts and again when it ends.
    """

    leantune: str | None = None
    run_id: RunId | None = None
    created: Moment | None = None
    status: Status | None = None
    command: list[str] | None = None
    directory: Annotated[
        str | None, InSchema("Working directory of the command, to which relative paths refer.")
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
    word_baseline: WordBaselineRecord | None = None
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
    """The record that every run writes before its first step and needs in order to continue."""

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
    """The record of a finished run with the parts needed to use it."""

    run_id: RunId
    recipe: RecipeValues
    labels: Labels
    artefacts: ArtefactsRecord


R = TypeVar("R", bound=RunRecord)


def needed(kind: type[RunRecord]) -> list[str]:
    """Return the names of the parts that a record of this kind must have."""
    return [each.name for each in fields(kind) if each.default is MISSING]


def read_record(run: Path, kind: type[R]) -> R:
    """Read the record of a run.

    Args:
        run: the run folder.
        kind: the class that says which parts are required; `RunRecord` requires none.

    Raises:
        UsageError: ``run`` is not a run folder.
        CheckpointError: the record is damaged or lacks a part that ``kind`` requires.
        UnsafeFileError: the record is a link that leads out of the run.
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
    """Read the record of a finished run.

    Raises:
        UsageError: ``run`` is not a run folder.
        CheckpointError: the run is not finished, or the record is damaged.
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
    """Replace the record of a run atomically.

    Raises:
        ResourceError: the disk is full or fails.
    """
    write_text(entry_of(run, RECORD), json.dumps(to_json(record), indent=1, ensure_ascii=False) + "\n")


def to_json(value: Any) -> Any:
    """Convert a record or a part of one to JSON types, omitting None values except in `WRITTEN_AS_NULL` fields."""
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
