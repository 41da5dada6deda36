"""The two files that a report is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leantune.config.run_record import Measures, RunRecord, read_record, to_json
from leantune.system.file_names import entry_of
from leantune.system.json_files import parse_json

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as its folder tells it: ``record.json`` and the events of ``history.jsonl``."""

    record: Json
    steps: tuple[Json, ...]
    """One event a logged step, in the order of the steps."""
    evaluations: tuple[Json, ...]
    pruned: tuple[Json, ...]

    def part(self, name: str) -> Json:
        """A part of the record; empty where the run has not written it (yet)."""
        return self.record.get(name) or {}

    def checkpoints(self) -> list[Json]:
        """Evaluated steps, from the record or, before it has them, from the history."""
        return list(self.record.get("checkpoints") or self.evaluations)

    @property
    def adapts_ranks(self) -> bool:
        """Whether ranks were to shrink: AdaLoRA, not LoRA."""
        schedule = self.part("schedule")
        return bool(schedule) and schedule["target_budget"] < schedule["init_budget"]

    def rank_moments(self) -> list[tuple[int, Mapping[str, int]]]:
        """The ranks of all modules by step, wherever the history holds them; a step that prunes may be there twice."""
        ranks = {event["step"]: event["ranks"] for event in (*self.steps, *self.pruned) if event.get("ranks")}
        return sorted(ranks.items())


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


def final_or(parameters: Json, key: str, initial: int) -> int:
    """A final count, or the initial one while the run has not written it."""
    final = parameters.get(key)
    return initial if final is None else int(final)


def load_run(run_dir: Path) -> Run:
    """Read a run folder, be the run finished, running or interrupted.

    Raises:
        UsageError: the folder holds no record.
        CheckpointError: the record or the history is damaged.
    """
    record: Json = to_json(read_record(run_dir, RunRecord))
    events = list(_events(entry_of(run_dir, "history.jsonl")))
    pruned = _by_step(events, "pruned")
    parameters = record.get("parameters")
    if parameters and record.get("status") != "finished":
        record = {**record, "parameters": parameters | _finals_so_far(parameters, pruned)}
    return Run(
        record=record,
        steps=_by_step(events, "step"),
        evaluations=_by_step(events, "evaluation"),
        pruned=pruned,
    )


def _finals_so_far(parameters: Json, pruned: tuple[Json, ...]) -> dict[str, int | None]:
    """Final counts of a run that has not finished: none before its ranks are final, when they are still a plan."""
    final = pruned[-1]["trainable"] if pruned else None
    return {"final": final, "adapters_final": None if final is None else final - parameters["head"]}


def _events(path: Path) -> Iterator[Json]:
    if not path.is_file():
        return
    lines = path.read_bytes().split(b"\n")
    # The text after the last newline is a line still being written, or cut off by a crash.
    for number, line in enumerate(lines[:-1], start=1):
        yield to_json(parse_json(line, Event, f"{path}:{number}"))


def _by_step(events: list[Json], kind: str) -> tuple[Json, ...]:
    """Events of one kind by step; a resumed run repeats steps, and then the later line holds."""
    latest = {event["step"]: event for event in events if event["event"] == kind}
    return tuple(latest[step] for step in sorted(latest))
