"""Training in a worker of a cluster, as one process of a process group created by Ray."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leantune.cluster.connection import import_ray
from leantune.cluster.nodes.board import Lines
from leantune.config import Recipe, load_recipe
from leantune.config.record.run import RECORD, BegunRecord, read_record
from leantune.errors import CheckpointError, DistributedError, LeantuneError, UsageError
from leantune.system import distributed
from leantune.system.console import WIDTH_OF_A_FILE, LoggedConsole
from leantune.system.file_names import entry_of
from leantune.system.lock import run_lock
from leantune.system.memory import keep_freed_memory, use_huge_pages
from leantune.training.checkpoint import list_checkpoints
from leantune.training.signals import Interrupt

ASK_EVERY_S = 0.5
"""Seconds between checks of a worker for a stop request."""
CAUSE_FIRST_S = 2.0
"""Seconds to delay an error that may be caused by the death of another process, so that Ray detects that first."""
LOCK_PATIENCE_S = 30.0
"""Seconds to wait for a process of the previous attempt to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """Settings for all workers of a run."""

    recipe: Recipe
    overwrite: bool
    resume: bool
    earlier_run: str | None
    """``run_id`` of the earlier run in the folder; None if there was none."""
    directory: str
    """Folder in which the command was started, which is the base of relative paths."""
    command: tuple[str, ...]
    """Arguments of the command, for the record."""
    cores: int
    """Number of threads of each worker."""
    quiet: bool
    flags: str
    """Command-line flags of the cluster, for the resume command."""
    board: Any
    """Handle of the `Board` actor."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(os.path.expanduser(self.recipe.output))

    def resume_command(self, folder: Path) -> str:
        """The command that resumes the run in ``folder``."""
        return f"leantune train --resume {shlex.quote(str(folder))} {self.flags}"


def train_worker(config: dict[str, Assignment]) -> None:
    """Train in one worker. A `LeantuneError` stops all workers; any other error makes Ray restart them."""
    assignment = config["assignment"]
    try:
        _train(assignment)
    except LeantuneError as error:
        _ask(assignment.board.fail, distributed.rank(), error)
        _leave_group()
    except Exception:
        time.sleep(CAUSE_FIRST_S)
        if _ask(assignment.board.failure) is None:
            raise
        # Otherwise another process has reported the cause, and this error is only its consequence.


def run_id_of(folder: Path) -> str | None:
    """Return the ``run_id`` of the run in ``folder``, or None if there is no readable record."""
    if not (folder / RECORD).is_file():
        return None
    with suppress(CheckpointError):  # reported when the run is resumed
        return read_record(folder, BegunRecord).run_id
    return None


def _ask(method: Any, *arguments: Any) -> Any:
    """Call an actor and return its answer."""
    return import_ray().get(method.remote(*arguments))


def _leave_group() -> None:
    """Leave the process group, so that the other processes do not wait for this one."""
    import torch.distributed as dist

    dist.destroy_process_group()


def _train(assignment: Assignment) -> None:
    import torch

    from leantune.report import write_model_card, write_report
    from leantune.training.run import run_training

    keep_freed_memory()
    use_huge_pages()
    torch.set_num_threads(assignment.cores)
    _enter(assignment.directory)
    sys.argv = list(assignment.command)
    attempt = _ask(assignment.board.begin) if distributed.is_main() else 0
    recipe, overwrite, resume = distributed.gather(_how_to_begin(assignment, attempt))[0]
    places = distributed.gather(_place())
    if attempt > 1:
        _wait_for_lock(assignment.folder)
    with _console(assignment) as console, _interrupt(assignment) as interrupt:
        if attempt > 1:
            console.print(f"a worker was lost: {'resuming' if resume else 'restarting'}", soft_wrap=True)
        console.print(
            f"{len(places)} worker(s) with {assignment.cores} core(s) each, on {', '.join(places)}",
            soft_wrap=True,
        )
        folder = run_training(
            recipe, console=console, overwrite=overwrite, resume=resume, interrupt=interrupt
        )
        if distributed.is_main():
            write_model_card(folder)
            write_report(folder)
        distributed.barrier()


def _enter(directory: str) -> None:
    """Change to the folder in which the command was started.

    Raises:
        DistributedError: if the folder does not exist on this node.
    """
    try:
        os.chdir(directory)
    except OSError as error:
        node = import_ray().util.get_node_ip_address()
        raise DistributedError(
            f"node {node}: {directory}: {error.strerror}; start the command in a folder that all nodes share"
        ) from error


def _place() -> str:
    """Return address and Ray ID of this process's node. Several nodes may share an address."""
    ray = import_ray()
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _how_to_begin(assignment: Assignment, attempt: int) -> tuple[Recipe, bool, bool]:
    """Return recipe, ``overwrite`` and ``resume`` for this attempt. All processes use the main process's result."""
    folder = assignment.folder
    is_new = attempt < 2 or run_id_of(folder) == assignment.earlier_run
    if is_new or not list_checkpoints(folder):
        return assignment.recipe, assignment.overwrite or not is_new, assignment.resume
    return (
        load_recipe(str(entry_of(folder, "recipe.yaml")), {"output": assignment.recipe.output}),
        False,
        True,
    )


def _wait_for_lock(folder: Path) -> None:
    """Wait until the previous attempt's main process has ended. If it has not, `run_training` reports it."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(UsageError), run_lock(folder):
            return
        time.sleep(ASK_EVERY_S)


@contextmanager
def _console(assignment: Assignment) -> Iterator[LoggedConsole]:
    """Yield a console whose lines the command prints. It is quiet except in the main process."""
    said: list[Any] = []

    def say(line: str) -> None:
        said[:] = [assignment.board.say.remote(line)]

    try:
        yield LoggedConsole(
            file=Lines(say),
            quiet=assignment.quiet or not distributed.is_main(),
            width=WIDTH_OF_A_FILE,
            markup=False,
            emoji=False,
            highlight=False,
        )
    finally:
        import_ray().get(said)  # the command reads the lines once more after the workers have ended


@contextmanager
def _interrupt(assignment: Assignment) -> Iterator[Interrupt]:
    """Yield an `Interrupt` that is set by the command's signals. Only the main process polls for them."""
    interrupt, is_over = Interrupt(assignment.resume_command), threading.Event()

    def listen() -> None:
        while not is_over.wait(ASK_EVERY_S) and interrupt.signal_number is None:
            interrupt.signal_number = _ask(assignment.board.signal)

    listener = threading.Thread(target=listen, daemon=True)
    if distributed.is_main():
        listener.start()
    try:
        yield interrupt
    finally:
        is_over.set()
