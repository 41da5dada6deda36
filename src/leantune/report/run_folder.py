"""Reader of the run files that a report is based on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from leantune.config.frontier_file import FILE, FrontierRecord, read_frontier
from leantune.config.record.run import (
    CheckpointRecord,
    Measures,
    ParametersRecord,
    RunRecord,
    read_record,
)
from leantune.config.rows_to_check import ROWS_TO_CHECK, RowToCheck, read_rows_to_check
from leantune.errors import CheckpointError, UnsafeFileError
from leantune.system.file_names import entry_of
from leantune.system.json_files import parse_json

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of ``history.jsonl``. The kind of event determines which values are set."""

    event: str
    step: int
    epoch: float | None = None
    loss: float | None = None
    orthogonality: float | None = None
    learning_rate: float | None = None
    tokens_per_s: float | None = None
    budget: float | None = None
    spent: float | None = None
    live_triplets: int | None = None
    ranks: dict[str, int] | None = None
    skipped: bool | None = None
    trainable: int | None = None
    train_s: float | None = None
    validation: Measures | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The contents of a run folder: ``record.json``, the events of ``history.jsonl``, and rows with their texts."""

    record: RunRecord
    steps: tuple[Event, ...]
    """One event per logged step, in order of steps."""
    evaluations: tuple[Event, ...]
    pruned: tuple[Event, ...]
    rows_to_check: tuple[RowToCheck, ...] = ()
    damage: str = ""
    """Sentences about files that cannot be read and are left out."""
    frontier: FrontierRecord | None = None
    """Accuracy of classifiers of other sizes; None if it was not measured."""

    @property
    def checkpoints(self) -> list[CheckpointRecord]:
        """Evaluated steps from the record or, for an unfinished run, from the history."""
        return self.record.checkpoints or [
            CheckpointRecord(step=one.step, epoch=one.epoch or 0.0, validation=one.validation, kept=False)
            for one in self.evaluations
            if one.validation is not None
        ]

    @property
    def adapts_ranks(self) -> bool:
        """Whether the schedule reduces ranks: true for AdaLoRA, false for LoRA."""
        schedule = self.record.schedule
        return schedule is not None and schedule.target_budget < schedule.init_budget

    def rank_moments(self) -> list[tuple[int, Mapping[str, int]]]:
        """Return the steps whose ranks the history contains, with the rank of each module."""
        # A step that prunes may have two events.
        ranks = {event.step: event.ranks for event in (*self.steps, *self.pruned) if event.ranks}
        return sorted(ranks.items())


def load_run(run_dir: Path) -> Run:
    """Read the folder of a finished, running or interrupted run.

    Raises:
        UsageError: the folder contains no record.
        CheckpointError: the record or the history is damaged.
    """
    record = read_record(run_dir, RunRecord)
    events = list(_events(entry_of(run_dir, "history.jsonl")))
    pruned = _by_step(events, "pruned")
    if record.parameters and record.status != "finished":
        record.parameters = _counted_so_far(record.parameters, pruned)
    damage: list[str] = []
    rows = _readable(lambda: read_rows_to_check(run_dir), ROWS_TO_CHECK, damage)
    frontier = _readable(lambda: read_frontier(run_dir), FILE, damage)
    return Run(
        record=record,
        steps=_by_step(events, "step"),
        evaluations=_by_step(events, "evaluation"),
        pruned=pruned,
        rows_to_check=rows or (),
        damage=" ".join(damage),
        frontier=frontier,
    )


def _readable(read: Callable[[], T], name: str, damage: list[str]) -> T | None:
    """Return a file's content, or add a sentence to `damage` and return None: the report does not depend on it."""
    try:
        return read()
    except (CheckpointError, UnsafeFileError, OSError):
        damage.append(f"{name} cannot be read, so its content is left out.")
        return None


def _counted_so_far(parameters: ParametersRecord, pruned: tuple[Event, ...]) -> ParametersRecord:
    """Replace the planned final counts of an unfinished run by the counts after the last pruning, or by None."""
    final = pruned[-1].trainable if pruned else None
    adapters_final = None if final is None else final - parameters.head
    return replace(parameters, final=final, adapters_final=adapters_final)


def _events(path: Path) -> Iterator[Event]:
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    # Text after the last newline is still being written, or was cut off by a crash.
    for number, line in enumerate(lines[:-1], start=1):
        yield parse_json(line, Event, f"{path}:{number}")


def _by_step(events: list[Event], kind: str) -> tuple[Event, ...]:
    """Return the events of one kind, one per step: a resumed run repeats steps, and the later line counts."""
    latest = {event.step: event for event in events if event.event == kind}
    return tuple(latest[step] for step in sorted(latest))
