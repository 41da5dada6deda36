"""``record.json`` of a run: what is in it, and the one reader of it.

The classes say which types the values have; ``record.schema.json`` is the published form. A record may come from a
stranger, from a disk that was full, or from a version that wrote less or more: keys that are not known here are left
alone, parts that are absent are None, and whoever reads says which ones are needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from leantune.errors import CheckpointError, UsageError
from leantune.system.file_names import entry_of
from leantune.system.json_files import read_json

RECORD = "record.json"
"""What makes a folder a run."""
NEEDED_TO_USE = ("run_id", "recipe", "labels", "artefacts")
"""Parts without which a finished run cannot be used."""
NEEDED_TO_RESUME = (
    "status",
    "recipe",
    "labels",
    "data",
    "parameters",
    "model",
    "hardware",
    "versions",
    "timings",
)
"""Parts without which a run cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """The machine, and whose kernels compute on it."""

    device: str
    cpu: str
    cores: int
    memory_bytes: int
    gpu: str | None
    kernels: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Class names in the order of their ids, and their hash."""

    names: list[str]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRecord:
    """One part of the data."""

    source: str
    sha256: str
    rows: int
    tokens: int
    label_counts: dict[str, int]
    truncated_rows: int | None = None
    truncated_tokens: int | None = None
    duplicate_rows: int | None = None
    conflicting_rows: int | None = None
    rows_also_in_train: int | None = None
    rows_also_in_validation: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRecord:
    """Training, validation and test rows."""

    train: RowsRecord
    validation: RowsRecord
    test: RowsRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRecord:
    """An adapted layer."""

    name: str
    in_features: int
    out_features: int
    initial_rank: int
    final_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParametersRecord:
    """Trainable parameters: planned, then, once the ranks are final, counted."""

    budget: int | None
    initial: int
    final: int | None
    total: int
    head: int
    adapters: int
    adapters_final: int | None
    modules: list[ModuleRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRecord:
    """In optimiser steps; budgets in the unit of the recipe key ``allocation``."""

    total_steps: int
    lr_warmup_steps: int
    warmup_steps: int
    final_steps: int
    allocate_every: int
    init_budget: int
    target_budget: int
    steps_per_epoch: int | None = None
    prune_step: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMeasures:
    """One class; None where there is nothing to count."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """An evaluation; intervals are 95 %, a cell of the confusion matrix is (true id, predicted id, rows)."""

    num_rows: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    macro_f1: float
    macro_f1_interval: tuple[float, float]
    log_loss: float
    calibration_error: float
    per_class: list[ClassMeasures]
    confusion: list[tuple[int, int, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsRecord:
    """Of the selected checkpoint."""

    validation: Measures | None
    test: Measures | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineRecord:
    """The linear probe."""

    name: str
    validation: Measures | None
    test: Measures | None
    rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The pretrained encoder and how it computed."""

    source: str
    architecture: str
    precision: str
    attention: str
    base_model: str | None = None
    sha256: str | None = None
    frozen_products: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointRecord:
    """An evaluated step."""

    step: int
    epoch: float
    validation: Measures
    kept: bool
    ranks_final: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedRecord:
    """The checkpoint that was taken."""

    step: int
    metric: str
    comparison: str | None
    rule: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRecord:
    """The epoch on training and validation rows after the selection."""

    rows: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """A file of an artefact."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactRecord:
    """A published folder; early runs say nothing of its files."""

    max_logit_difference: float
    files: dict[str, FileRecord] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtefactsRecord:
    """The two standard forms of a finished run."""

    adapter: ArtefactRecord
    merged: ArtefactRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """All of it; a part that is not (yet) there is None."""

    leantune: str | None = None
    run_id: str | None = None
    created: str | None = None
    status: Literal["running", "interrupted", "finished"] | None = None
    command: list[str] | None = None
    directory: str | None = None
    versions: dict[str, str] | None = None
    hardware: Hardware | None = None
    processes: int | None = None
    recipe: dict[str, Any] | None = None
    labels: Labels | None = None
    data: DataRecord | None = None
    model: ModelRecord | None = None
    parameters: ParametersRecord | None = None
    schedule: ScheduleRecord | None = None
    baseline: BaselineRecord | None = None
    timings: dict[str, float] | None = None
    skipped_steps: int | None = None
    checkpoints: list[CheckpointRecord] | None = None
    selected: SelectedRecord | None = None
    metrics: MetricsRecord | None = None
    ranks: dict[str, int] | None = None
    refit: RefitRecord | None = None
    artefacts: ArtefactsRecord | None = None


def read_record(run: Path, *, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The record of a run as JSON values, each of the type that `RunRecord` says.

    Args:
        run: the run folder.
        needs: parts that the caller cannot do without.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if the record is damaged or lacks one of ``needs``.
        UnsafeFileError: if it is a link that leads out of the run.
    """
    path = run / RECORD
    if not path.is_file():
        raise UsageError(f"{run}: no run there (no {RECORD}); give the output folder of 'leantune train'")
    record = read_json(entry_of(run, RECORD), RunRecord)
    absent = [part for part in needs if record.get(part) is None]
    if absent:
        raise CheckpointError(f"{path}: damaged: no {absent[0]} in it")
    return record


def read_finished_record(run: Path) -> dict[str, Any]:
    """The record of a run that can be used.

    Raises:
        UsageError: if ``run`` is no run folder.
        CheckpointError: if the run did not finish, or the record is damaged.
    """
    if read_record(run, needs=("status",))["status"] != "finished":
        raise CheckpointError(
            f"{run}: the run is not finished; go on with: leantune train --resume {shlex.quote(str(run))}"
        )
    return read_record(run, needs=NEEDED_TO_USE)
