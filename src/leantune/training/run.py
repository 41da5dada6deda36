"""One run from recipe to artefacts, in the order that the user sees."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from leantune.config import Recipe
from leantune.errors import CheckpointError, Interrupted, ResourceError
from leantune.system import distributed
from leantune.system.console import LoggedConsole
from leantune.system.damage import explained_damage
from leantune.system.file_names import entry_of
from leantune.system.hardware import describe_versions
from leantune.system.lock import run_lock
from leantune.system.memory import is_out_of_memory
from leantune.training.after.finalize import (
    measure_test,
    note_confidence,
    publish_artefacts,
    refit,
    select_best,
)
from leantune.training.after.rows_to_check import save_rows_to_check
from leantune.training.before.pseudo_labels import (
    add_pseudo_labels,
    find_pseudo_labels,
    read_pseudo_labels,
    save_pseudo_labels,
)
from leantune.training.before.race import race
from leantune.training.before.starts import init_adapters, warm_start
from leantune.training.before.truncation import choose_truncation_side
from leantune.training.before.word_baseline import measure_words
from leantune.training.build import (
    Run,
    begin_record,
    build_classifier,
    fresh_state,
    hardware_of,
    main_phase,
    prepare_run,
    start_folder,
)
from leantune.training.callbacks import RunObserver
from leantune.training.checkpoint import checkpoint_path, list_checkpoints
from leantune.training.history import Display, History
from leantune.training.loop import TrainingState, skipped_line, train
from leantune.training.resume import machine_lines, newest_valid_checkpoint
from leantune.training.selection import Evaluation, Selection
from leantune.training.signals import Interrupt, interruptible, resume_command
from leantune.training.state import restore
from leantune.training.trackers import check_trackers, trackers_of


def run_training(
    recipe: Recipe,
    *,
    console: Console,
    overwrite: bool = False,
    resume: bool = False,
    interrupt: Interrupt | None = None,
) -> Path:
    """Train, select, refit and publish.

    Args:
        recipe: the run's recipe.
        console: console for messages and progress.
        overwrite: replace an earlier run in the same folder.
        resume: continue from the newest valid checkpoint in the folder.
        interrupt: stop request set by the caller; None: SIGINT and SIGTERM of this process request a stop.

    Returns:
        the run folder.

    Raises:
        LeantuneError: one of the subclasses in `errors`, by the kind of failure.
    """
    check_trackers(recipe.report_to or ())
    with run_lock(Path(os.path.expanduser(recipe.output))), _memory_explained(recipe):
        run = prepare_run(recipe, console=console, overwrite=overwrite, resume=resume)
        if not resume:
            choose_truncation_side(run)
        pseudo_labels = read_pseudo_labels(run) if resume else find_pseudo_labels(run, recipe)
        if pseudo_labels:
            add_pseudo_labels(run, recipe, pseudo_labels)
        tried = race(run, recipe) if recipe.effort == "balanced" and not resume else []
        classifier = build_classifier(run)
        selection = Selection(
            run.recipe.selection_metric, recipe.advanced.keep_best, rule=recipe.advanced.selection
        )
        if resume:
            run.record.model = run.model
        else:
            begin_record(run)
            run.record.race = tried or None
            run.record.pseudo_labels = pseudo_labels.record if pseudo_labels else None
            measure_words(run)
            warm_start(run, classifier)
            init_adapters(run, classifier)
            # probe and decompositions round differently on different processors
            distributed.take_from_main([p.data for p in classifier.trainable().values()])
            start_folder(run)
            if pseudo_labels:
                save_pseudo_labels(run, pseudo_labels)
        state = fresh_state(run, classifier, run.steps.ranks)
        history = _go_on(run, state, selection) if resume else History(entry_of(run.folder, "history.jsonl"))
        if isinstance(console, LoggedConsole) and distributed.is_main():
            console.log_to(entry_of(run.folder, "train.log"))
        with _interruption_noted(run):
            with history:
                _train(run, state, selection, history, interrupt)
            answers = {"validation": select_best(run, classifier, selection)}
            if recipe.advanced.refit:
                refit(run, classifier)
            answers["test"] = measure_test(run, classifier)
            note_confidence(run, answers)
            save_rows_to_check(run, classifier, answers)
            publish_artefacts(run, classifier)
        return run.folder


@contextmanager
def _memory_explained(recipe: Recipe) -> Iterator[None]:
    """Explain which recipe keys need the memory and what to set; nothing is changed automatically."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size, accumulate = recipe.batch_size, recipe.accumulate
        advice = (
            f"accumulate={2 * accumulate} takes the same steps in smaller pieces, batch_size={size // 2} smaller steps"
            if size > accumulate
            else f"max_length={max(1, recipe.max_length // 2)} cuts the texts"
        )
        raise ResourceError(
            f"out of memory with batch_size={size}, accumulate={accumulate}, "
            f"eval_batch_size={recipe.eval_batch_size} and max_length={recipe.max_length}: {advice}"
        ) from error


@contextmanager
def _interruption_noted(run: Run) -> Iterator[None]:
    """Note a signal in the record; after Ctrl-C at a moment that saves nothing itself, say how to continue."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        if run.record.status == "running":  # a finished run that was resumed stays finished
            run.record.status = "interrupted"
            run.save_record()
        if isinstance(stopped, Interrupted) or not list_checkpoints(run.folder):
            raise
        raise Interrupted(
            f"interrupted; continue from the last checkpoint with: {resume_command(run.folder)}",
            signal_number=signal.SIGINT,
        ) from None


def _go_on(run: Run, state: TrainingState, selection: Selection) -> History:
    """Load the newest valid checkpoint into ``state`` and ``selection``; returns the history to append to."""
    found = newest_valid_checkpoint(run.folder, run.console)
    if found is None:
        raise CheckpointError(
            f"{run.folder}: no valid checkpoint to resume from; start again with --overwrite"
        )
    step, checkpoint = found
    with explained_damage(checkpoint_path(run.folder, step)):
        restore(state, checkpoint)
        run.started -= checkpoint.state["elapsed_s"]
        selection.evaluations = [Evaluation(**each) for each in checkpoint.state["evaluations"]]
        history_bytes = int(checkpoint.state["history_bytes"])
    if run.record.status == "interrupted":
        run.record.status = "running"
        run.save_record()
    run.console.print(f"resumed from step {step} of {run.steps.total_steps}")
    for line in machine_lines(run.record, hardware=hardware_of(run), versions=describe_versions()):
        run.console.print(line, soft_wrap=True)
    history = History(entry_of(run.folder, "history.jsonl"), keep_bytes=history_bytes)
    if history.lost_bytes:
        run.console.print(
            f"history.jsonl has lost {history.lost_bytes:,} bytes since step {step}: curves will have a gap"
        )
    return history


def _train(
    run: Run, state: TrainingState, selection: Selection, history: History, interrupt: Interrupt | None
) -> None:
    phase = main_phase(run)
    with (
        trackers_of(run) as trackers,
        Display(phase.total_steps, run.console) as display,
        interruptible() if interrupt is None else nullcontext(interrupt) as asked,
    ):
        observer = RunObserver(
            folder=run.folder,
            recipe=run.recipe,
            steps=run.steps,
            validation=run.data.validation,
            label_names=run.data.labels.names,
            selection=selection,
            history=history,
            display=display,
            interrupt=asked,
            trackers=trackers,
            elapsed=run.elapsed,
        )
        if not observer.is_converged():  # a resumed run may already have stopped early
            train(state, phase, run.recipe, observer)
    observer.stop_if_asked(state)  # the signal may have come while the last checkpoint was saved
    if state.skipped_steps:
        run.console.print(f"warning: {skipped_line(state)}")
    run.record.skipped_steps = state.skipped_steps
    run.record.timings |= {
        "train_s": state.train_s,
        "save_s": observer.save_s,
        "train_samples_per_s": state.train_samples / max(state.train_s, 1e-9),
        "train_tokens_per_s": state.train_tokens / max(state.train_s, 1e-9),
    }
