"""The files that a report is made of."""

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
    """A line of ``history.jsonl``; which values it has depends on the event."""

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
    """A run as its folder tells it: ``record.json``, the events of ``history.jsonl``, and rows with their texts."""

    record: RunRecord
    steps: tuple[Event, ...]
    """One event a logged step, in the order of the steps."""
    evaluations: tuple[Event, ...]
    pruned: tuple[Event, ...]
    rows_to_check: tuple[RowToCheck, ...] = ()
    damage: str = ""
    """What cannot be read and is left out, in sentences."""
    frontier: FrontierRecord | None = None
    """What classifiers of other sizes would give, where that was measured."""

    @property
    def checkpoints(self) -> list[CheckpointRecord]:
        """Evaluated steps, from the record or, before it has them, from the history."""
        return self.record.checkpoints or [
            CheckpointRecord(step=one.step, epoch=one.epoch or 0.0, validation=one.validation, kept=False)
            for one in self.evaluations
            if one.validation is not None
        ]

    @property
    def adapts_ranks(self) -> bool:
        """Whether ranks were to shrink: AdaLoRA, not LoRA."""
        schedule = self.record.schedule
        return schedule is not None and schedule.target_budget < schedule.init_budget

    def rank_moments(self) -> list[tuple[int, Mapping[str, int]]]:
        """The ranks of all modules by step, wherever the history holds them; a step that prunes may be there twice."""
        ranks = {event.step: event.ranks for event in (*self.steps, *self.pruned) if event.ranks}
        return sorted(ranks.items())


def load_run(run_dir: Path) -> Run:
    """Read a run folder, be the run finished, running or interrupted.

    Raises:
        UsageError: the folder holds no record.
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
    """What is in a file, or None and a sentence more: what only illustrates a report must not cost it."""
    try:
        return read()
    except (CheckpointError, UnsafeFileError, OSError):
        damage.append(f"{name} cannot be read, so what it holds is left out.")
        return None


def _counted_so_far(parameters: ParametersRecord, pruned: tuple[Event, ...]) -> ParametersRecord:
    """Without final counts before the ranks of the run are final: until then they are a plan."""
    final = pruned[-1].trainable if pruned else None
    adapters_final = None if final is None else final - parameters.head
    return replace(parameters, final=final, adapters_final=adapters_final)


def _events(path: Path) -> Iterator[Event]:
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    # The text after the last newline is a line still being written, or cut off by a crash.
    for number, line in enumerate(lines[:-1], start=1):
        yield parse_json(line, Event, f"{path}:{number}")


def _by_step(events: list[Event], kind: str) -> tuple[Event, ...]:
    """Events of one kind by step; a resumed run repeats steps, and then the later line holds."""
    latest = {event.step: event for event in events if event.event == kind}
    return tuple(latest[step] for step in sorted(latest))
