"""What each worker of a cluster does: the training of `training.run`, as one process of a group that Ray made."""

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
"""How often a worker asks whether it should stop."""
CAUSE_FIRST_S = 2.0
"""How long an error waits that may be the consequence of another process's death, so that Ray sees that first."""
LOCK_PATIENCE_S = 30.0
"""How long a process of the last attempt may take to die."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What all workers of a run are told."""

    recipe: Recipe
    overwrite: bool
    resume: bool
    earlier_run: str | None
    """``run_id`` of what was in the run folder before."""
    directory: str
    """Where the command was started, which relative paths of the recipe begin at."""
    command: tuple[str, ...]
    """Its words, for the record."""
    cores: int
    """Threads of each worker."""
    quiet: bool
    flags: str
    """``--cluster`` and what belongs to it, to be typed again."""
    board: Any
    """Handle of the `Board`."""

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(os.path.expanduser(self.recipe.output))

    def resume_command(self, folder: Path) -> str:
        """The command that resumes the run in ``folder``."""
        return f"leantune train --resume {shlex.quote(str(folder))} {self.flags}"


def train_worker(config: dict[str, Assignment]) -> None:
    """The function of a worker. An error that a user can act on ends all workers, any other starts them again."""
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
        # that of another process, which left this one alone; its own is a consequence


def run_id_of(folder: Path) -> str | None:
    """The ``run_id`` of the run in ``folder``; None where there is none that can be read."""
    if not (folder / RECORD).is_file():
        return None
    with suppress(CheckpointError):  # whoever resumes it is told
        return read_record(folder, BegunRecord).run_id
    return None


def _ask(method: Any, *arguments: Any) -> Any:
    """What an actor answers."""
    return import_ray().get(method.remote(*arguments))


def _leave_group() -> None:
    """Close the connections, so that the others do not wait for this process."""
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
            console.print(f"a worker was lost: {'going on' if resume else 'starting again'}", soft_wrap=True)
        console.print(
            f"{len(places)} worker(s) of {assignment.cores} core(s), on {', '.join(places)}", soft_wrap=True
        )
        folder = run_training(
            recipe, console=console, overwrite=overwrite, resume=resume, interrupt=interrupt
        )
        if distributed.is_main():
            write_model_card(folder)
            write_report(folder)
        distributed.barrier()


def _enter(directory: str) -> None:
    """Go to where the command was started, which a node may not have.

    Raises:
        DistributedError: naming the node.
    """
    try:
        os.chdir(directory)
    except OSError as error:
        node = import_ray().util.get_node_ip_address()
        raise DistributedError(
            f"node {node}: {directory}: {error.strerror}; start the command in a folder that all nodes share"
        ) from error


def _place() -> str:
    """Address and Ray's number of the node of this process; several nodes may have one address."""
    ray = import_ray()
    return f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:8]})"


def _how_to_begin(assignment: Assignment, attempt: int) -> tuple[Recipe, bool, bool]:
    """Recipe, ``overwrite`` and ``resume`` of this attempt; what the main process finds counts for all."""
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
    """Let the main process of the last attempt die, which Ray may still be at; `run_training` says if it does not."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(UsageError), run_lock(folder):
            return
        time.sleep(ASK_EVERY_S)


@contextmanager
def _console(assignment: Assignment) -> Iterator[LoggedConsole]:
    """A console whose lines the command prints; of the main process alone."""
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
        import_ray().get(said)  # the command asks for lines once more when all workers are done


@contextmanager
def _interrupt(assignment: Assignment) -> Iterator[Interrupt]:
    """What the command's signals are noted in; the main process asks for all."""
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
