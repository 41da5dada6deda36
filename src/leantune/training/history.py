"""Progress of a run: history.jsonl for later, a progress bar for now."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from leantune.evaluation.batches import watching_rows
from leantune.system import distributed

if TYPE_CHECKING:
    from leantune.training.loop import StepResult

LINE_EVERY_S = 15
"""Least seconds between two progress lines without a terminal; in long runs, a thirtieth of the elapsed time."""


class History:
    """``history.jsonl``: one JSON object per line, appended and flushed line by line."""

    def __init__(self, path: Path, *, keep_bytes: int = 0) -> None:
        """Open for appending after the first ``keep_bytes``; a resumed run cuts off what it will repeat.

        If the file is shorter, its whole lines are kept, and `lost_bytes` counts the missing rest.
        """
        path = path if distributed.is_main() else Path(os.devnull)
        self._file = path.open("ab")
        self.lost_bytes = 0
        if distributed.is_main():
            size = self._file.seek(0, os.SEEK_END)
            kept = keep_bytes if size >= keep_bytes else path.read_bytes().rfind(b"\n") + 1
            self._file.truncate(kept)
            self.lost_bytes = keep_bytes - kept

    def write(self, event: str, **values: Any) -> None:
        """Append one line; only the main process writes."""
        if not distributed.is_main():
            return
        self._file.write((json.dumps({"event": event, **values}) + "\n").encode())
        self._file.flush()

    def position(self) -> int:
        """Bytes written so far, synced to disk."""
        if distributed.is_main():
            os.fsync(self._file.fileno())
        return self._file.seek(0, os.SEEK_END)

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Display:
    """The progress display: a live bar in a terminal, otherwise a line per event and an occasional line per step.

    Args:
        total_steps: optimiser steps of the run.
        console: where to draw; stderr, so that stdout stays free for results.
        what: what is being trained, shown before the bar.
    """

    def __init__(self, total_steps: int, console: Console, what: str = "training") -> None:
        self.console, self.total_steps, self.what = console, total_steps, what
        self.best = ""
        """The best score so far, formatted; empty before the first evaluation."""
        self._started = self._spoke = time.monotonic()
        self._first_step: int | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task: TaskID = self._progress.add_task(what, total=total_steps, status="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, result: StepResult, tokens_per_s: float) -> None:
        """Show one step."""
        parts = [
            f"epoch {result.epoch:.1f}",
            f"loss {result.loss:.3f}",
            self.best,
            f"{tokens_per_s:,.0f} tokens/s",
        ]
        status = " · ".join(part for part in parts if part)
        self._progress.update(self._task, completed=result.step, status=status)
        self._first_step = self._first_step or result.step
        now = time.monotonic()
        if not self.console.is_terminal and now - self._spoke >= max(
            LINE_EVERY_S, (now - self._started) / 30
        ):
            self._spoke = now
            done = result.step - self._first_step
            left = (now - self._started) / max(done, 1) * (self.total_steps - result.step)
            where = "" if self.what == "training" else f"{self.what}: "
            self.say(
                f"{where}step {result.step} of {self.total_steps}: {status}, about {duration(left)} left"
            )

    def say(self, line: str) -> None:
        """Print one line above the progress bar."""
        self.console.print(line, soft_wrap=True)

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show what is running between two steps (an evaluation, a checkpoint)."""

        def show(text: str) -> None:
            self._progress.update(self._task, description=text)

        show(what)
        try:
            with watching_rows(lambda done, total: show(f"{what}: {done:,} of {total:,} rows")):
                yield
        finally:
            show(self.what)


@contextmanager
def preparing(console: Console, what: str) -> Iterator[None]:
    """Show what is running beside the training, and how many of its rows are computed."""
    with (
        console.status(what) as status,
        watching_rows(lambda done, total: status.update(f"{what}: {done:,} of {total:,} rows")),
    ):
        yield


def duration(seconds: float) -> str:
    """Format a number of seconds for people.

    >>> duration(8.2), duration(200), duration(9000)
    ('8 s', '3 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def rounded(values: Mapping[str, float], digits: int = 5) -> dict[str, float]:
    """Round floats to a few significant digits for a log."""
    return {key: float(f"{value:.{digits}g}") for key, value in values.items()}
