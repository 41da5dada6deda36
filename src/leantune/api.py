"""The front door: `train` and `plan`, for rows in files or in memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from leantune.config import Recipe, load_recipe
from leantune.errors import Interrupted, UsageError
from leantune.inference.load import load_run
from leantune.inference.text_classifier import TextClassifier
from leantune.report import write_model_card, write_report
from leantune.report.adaptation import ledger
from leantune.system.console import console
from leantune.system.notebook import html_table
from leantune.training.before import planning
from leantune.training.before.folder import check_folder
from leantune.training.before.placement import name_of
from leantune.training.before.rows_in_memory import rows_as_files
from leantune.training.run import run_training


def train(
    data: Any,
    *,
    model: str | os.PathLike[str] | None = None,
    max_trainable_params: float | str | None = None,
    test: Any = None,
    validation: Any = None,
    unlabelled: Any = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    **recipe: Any,
) -> TextClassifier:
    """Train a text classifier inside a parameter budget.

    Args:
        data: labelled rows: a path as ``leantune train`` takes it; a ``pandas.DataFrame``, a ``datasets.Dataset``, a
            dict of lists or a list of dicts with ``text`` and ``label`` (or what ``text_column`` and ``label_column``
            name); a tuple of N texts and N labels; or a list of N pairs ``(text, label)``. Labels are texts, whole
            numbers or booleans, and predictions have the same type. If a text may have several, they are lists.
        model: pretrained encoder: a folder, a hub name, or ``asset:minilm``; also accepted as ``encoder``.
        max_trainable_params: limit on trainable parameters at any time of the run: a number, or a share such as
            ``"0.1%"`` of the encoder; None: rank 8 at the end. Also accepted as ``budget``.
        test: rows that are measured once at the end, in the same forms.
        validation: rows that choose the checkpoint; None: a hold-out of the training rows.
        unlabelled: texts without labels. The run also trains on the ones that a first run on the labelled rows is
            sure of. A path, a list of N texts, a ``DataFrame`` or a ``Dataset``.
        output: run folder to keep, with report, record, adapter and merged model; None: a temporary one that lives as
            long as the classifier, from which `TextClassifier.save` copies.
        overwrite: replace an earlier run in ``output``.
        resume: continue the run in ``output`` bit for bit; the other arguments must be those it began with.
        quiet: show no progress, which is on standard error or, in a notebook, in the cell.
        recipe: any other recipe key, as ``epochs=5`` or ``warmup=0.2``; docs/recipe.md lists them.

    Returns:
        the classifier, with what was measured in ``metrics``.

    Raises:
        UsageError: for settings that cannot be.
        DataError: for rows that are not what they must be, naming the row.
        LeantuneError: of another kind; `leantune.errors` lists them.
        KeyboardInterrupt, SystemExit: after Ctrl-C and SIGTERM; see `run_recipe`. After Ctrl-C a temporary run stays,
            too, if there is a checkpoint of it, and the message names it.

    Examples:
        >>> import leantune
        >>> classifier = leantune.train("train.csv", model="./encoder", max_trainable_params=100_000)  # doctest: +SKIP
        >>> classifier.predict(["Oil prices rose again on Monday."])  # doctest: +SKIP
        ['crude']
    """
    if resume and (output is None or overwrite):
        raise UsageError("resume continues the run in output: give output, and leave out overwrite")
    with contextlib.ExitStack() as temporary:
        if output is None:
            keeper = tempfile.mkdtemp(prefix="leantune-")
            temporary.callback(shutil.rmtree, keeper, ignore_errors=True)
            folder = Path(keeper, "run")
        else:
            folder = Path(output).expanduser()
        parts = {"data": data, "test": test, "validation": validation, "unlabelled": unlabelled}
        with rows_as_files(parts, folder, recipe) as files:
            settings = settings_of(
                recipe, model=model, max_trainable_params=max_trainable_params, output=folder, files=files
            )
            check_folder(folder, overwrite=overwrite, resume=resume)
            try:
                run = run_recipe(settings, overwrite=overwrite, resume=resume, quiet=quiet, is_kept=True)
            except KeyboardInterrupt as stopped:
                saved = stopped.__cause__
                if not isinstance(saved, Interrupted):
                    raise
                temporary.pop_all()
                how = f"{saved}, or the same call with output={str(folder)!r} and resume=True"
                raise KeyboardInterrupt(how) from saved
        classifier = load_run(run, trust_remote_code=settings.trust_remote_code)
        # of the model, since a dataclass with slots has no weak references
        weakref.finalize(classifier.classifier, temporary.pop_all().close)
    return classifier


def plan(
    data: Any = None,
    *,
    model: str | os.PathLike[str] | None = None,
    max_trainable_params: float | str | None = None,
    **recipe: Any,
) -> Plan:
    """The ledger of parameters and the schedule of a run, without loading a weight.

    Args:
        data: as `train` takes it; None where ``labels`` names the classes: the number of steps is not known then.
        model: as `train` takes it.
        max_trainable_params: as `train` takes it.
        recipe: any other recipe key.

    Returns:
        ``parameters`` (`ParameterPlan`: ranks, ``initial``, ``final``, ``total``) and ``steps`` (`StepPlan`).

    Raises:
        UsageError: for settings that cannot be; the message names the nearest that can.
        DataError: for rows that are not what they must be.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if data is None and not recipe.get("labels"):
            raise UsageError("data: none given; give rows, or the names of the classes as labels=[...]")
        with rows_as_files({"data": "none" if data is None else data}, folder, recipe) as files:
            settings = settings_of(
                recipe, model=model, max_trainable_params=max_trainable_params, output=folder, files=files
            )
            found = planning.plan(settings, missing="no rows were given" if data is None else "")
            return Plan(*(getattr(found, each.name) for each in fields(found)))


@dataclass(frozen=True, slots=True, repr=False)
class Plan(planning.Plan):
    """What `plan` returns: its `repr` is a line, and a notebook shows its ledger as a table."""

    def __repr__(self) -> str:
        return f"<Plan: {self._summary}, {self.parameters.initial:,} trainable parameters>"

    def _repr_html_(self) -> str:
        table = ledger(self.parameters.to_record())
        return html_table(table.rows, [self._summary, *table.headings[1:]])

    @property
    def _summary(self) -> str:
        steps = "" if self.steps is None else f", {self.steps.total_steps:,} steps"
        return name_of(self.recipe, self.parameters.init_rank) + steps


def run_recipe(recipe: Recipe, *, overwrite: bool, resume: bool = False, quiet: bool, is_kept: bool) -> Path:
    """Train as ``leantune train`` does, report and model card included; torch's generators stay the caller's.

    Args:
        recipe: what to do.
        overwrite: replace an earlier run in the same folder.
        resume: continue the run in the same folder.
        quiet: show no progress on standard error.
        is_kept: whether the run folder stays, so that a run that was stopped can be resumed: an error names the
            command then.

    Returns:
        the run folder.

    Raises:
        LeantuneError: of the kind that says what is wrong.
        KeyboardInterrupt: after Ctrl-C, when the step is done and saved, or at once after a second one.
        SystemExit: after SIGTERM, in the same way, unless a handler of the caller's raises another.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            progress = console(stderr=True, quiet=quiet)
            run = run_training(recipe, console=progress, overwrite=overwrite, resume=resume)
    except Interrupted as error:
        reason = error if is_kept else None
        number = error.exit_code - 128
        if number == signal.SIGINT:
            raise KeyboardInterrupt from reason
        if callable(signal.getsignal(number)):
            signal.raise_signal(number)
        # an Exception would be one failed fit of a search, which would go on
        raise SystemExit(error.exit_code) from reason
    write_model_card(run)
    write_report(run)
    return run


def settings_of(
    recipe: Mapping[str, Any],
    *,
    model: str | os.PathLike[str] | None,
    max_trainable_params: float | str | None,
    output: Path,
    files: Mapping[str, str],
) -> Recipe:
    """Return the recipe of arguments and keys.

    Raises:
        UsageError: for invalid settings.
    """
    own = {"model": model, "max_trainable_params": max_trainable_params}
    given = {name: value for name, value in own.items() if value is not None}
    return load_recipe(None, {**recipe, **given, "output": str(output), **files}, place="arguments")
