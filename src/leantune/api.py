"""The front door: `train` and `plan`, for rows in files or in memory."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from leantune.config import Recipe, load_recipe
from leantune.config.record.run import RunRecord, read_record
from leantune.data.text.cells import list_of_texts
from leantune.errors import CheckpointError, DataError, Interrupted, UsageError
from leantune.inference.load import load_run
from leantune.inference.text_classifier import TextClassifier
from leantune.report import write_model_card, write_report
from leantune.report.adaptation import ledger
from leantune.system.atomic import write_bytes
from leantune.system.console import console
from leantune.system.notebook import html_table
from leantune.training.before import planning
from leantune.training.before.folder import check_folder
from leantune.training.before.placement import name_of
from leantune.training.run import run_training

ROWS = "rows-"
"""What the names of files begin with that rows in memory are written to."""
GIVEN_BY_NAME = {
    "model": "encoder",
    "max_trainable_params": "budget",
    "data": "data",
    "test": "test",
    "validation": "validation",
    "unlabelled": "unlabelled",
    "output": "output",
}
"""Recipe keys that are arguments, and what those are called."""


def train(
    data: Any,
    *,
    encoder: str | os.PathLike[str],
    budget: int | None = None,
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
        data: labelled rows: a path as ``leantune train`` takes it, a ``pandas.DataFrame`` or ``datasets.Dataset`` with
            the columns ``text`` and ``label`` (or those that ``text_column`` and ``label_column`` name), or texts and
            their labels ``(texts, labels)``, N of each. Where a text may have several labels they are lists.
        encoder: pretrained encoder: a folder, a hub name, or ``asset:minilm``.
        budget: limit on trainable parameters at any time of the run; None: rank 8 at the end.
        test: rows that are measured once at the end, in the same forms.
        validation: rows that choose the checkpoint; None: a hold-out of the training rows.
        unlabelled: texts without labels, of which those are trained on, too, that a first run on the labelled rows is
            sure of: a path, a list of N texts, a ``DataFrame`` or a ``Dataset``.
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
        >>> classifier = leantune.train("train.csv", encoder="./encoder", budget=100_000)  # doctest: +SKIP
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
            settings = settings_of(recipe, encoder=encoder, budget=budget, output=folder, files=files)
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
    data: Any = None, *, encoder: str | os.PathLike[str], budget: int | None = None, **recipe: Any
) -> Plan:
    """The ledger of parameters and the schedule of a run, without loading a weight.

    Args:
        data: as `train` takes it; None where ``labels`` names the classes: the number of steps is not known then.
        encoder: as `train` takes it.
        budget: as `train` takes it.
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
            settings = settings_of(recipe, encoder=encoder, budget=budget, output=folder, files=files)
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
    encoder: str | os.PathLike[str],
    budget: int | None,
    output: Path,
    files: Mapping[str, str],
) -> Recipe:
    """The recipe of arguments and keys.

    Raises:
        UsageError: for a key that is an argument, and for settings that cannot be.
    """
    clashes = [f"{key} is the argument {GIVEN_BY_NAME[key]}" for key in recipe if key in GIVEN_BY_NAME]
    if clashes:
        raise UsageError(f"{', '.join(clashes)}; give it there")
    own = {"model": os.fspath(encoder), "max_trainable_params": budget, "output": str(output)}
    return load_recipe(None, {**recipe, **own, **files}, place="train")


@contextlib.contextmanager
def rows_as_files(
    parts: Mapping[str, Any], folder: Path, recipe: Mapping[str, Any]
) -> Iterator[dict[str, str]]:
    """What the recipe calls ``parts``: paths as they are, rows in memory as files in the run folder.

    When the block ends, those files stay that the run there was made of.
    """
    was_there, files, own = folder.exists(), {}, _own_rows(folder)
    try:
        for name, rows in parts.items():
            if rows is None:
                continue
            if isinstance(rows, str | os.PathLike):
                files[name] = os.fspath(rows)
                continue
            content, suffix = content_of(rows, name, recipe)
            # its own name tells what is in it, so that it replaces no other file
            path = folder / f"{ROWS}{hashlib.sha256(content).hexdigest()[:12]}.{suffix}"
            if not path.exists():
                own.add(path)
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, content)
            files[name] = str(path)
        yield files
    finally:
        for path in own - _own_rows(folder):
            path.unlink(missing_ok=True)
        if not was_there:
            with contextlib.suppress(OSError):  # not empty: the run has begun
                folder.rmdir()


def _own_rows(folder: Path) -> set[Path]:
    """The files of rows in ``folder`` that the run there was made of; none where its record cannot be read."""
    try:
        recipe = read_record(folder, RunRecord).recipe or {}
    except (CheckpointError, UsageError):
        return set()
    named = (Path(recipe[key]) for key in ("data", "test", "validation", "unlabelled") if recipe.get(key))
    return {path for path in named if path.parent == folder and path.name.startswith(ROWS)}


def content_of(rows: Any, name: str, recipe: Mapping[str, Any]) -> tuple[bytes, str]:
    """Rows in memory as the content of a file, and the suffix of its name.

    Raises:
        UsageError: if they are of no known kind.
        DataError: for texts and labels that are not as many, or a column that is missing.
    """
    is_table = hasattr(rows, "columns") or hasattr(rows, "column_names")
    if name == "unlabelled" and not is_table:
        lines = (json.dumps({"text": text}) + "\n" for text in list_of_texts(rows))
        return "".join(lines).encode(), "jsonl"
    if isinstance(rows, tuple) and len(rows) == 2:
        return lines_of(*rows, name), "jsonl"
    module = type(rows).__module__.partition(".")[0]
    if module == "datasets" and hasattr(rows, "column_names"):
        if isinstance(rows.column_names, dict):
            raise UsageError(
                f"{name}: a DatasetDict, expected one split of it: {name}={name}[{next(iter(rows))!r}]"
            )
        target = io.BytesIO()
        rows.select_columns(_columns(rows.column_names, name, recipe)).to_parquet(target)
        return target.getvalue(), "parquet"
    if module == "pandas" and hasattr(rows, "columns"):
        chosen = rows[_columns(list(rows.columns), name, recipe)]
        return chosen.to_parquet(index=False), "parquet"
    raise UsageError(
        f"{name}: a {type(rows).__name__}, expected a path, a DataFrame, a datasets.Dataset, or a tuple (texts, labels)"
    )


def _columns(found: Sequence[str], name: str, recipe: Mapping[str, Any]) -> list[str]:
    """The columns to read; others may hold values that no file can."""
    named = [recipe.get(key) for key in ("text_column", "text_pair_column", "label_column")]
    wanted = [each for each in found if each in (*named, "text", "label", "target")]
    if not wanted:
        raise DataError(
            f"{name}: no column 'text' among {', '.join(map(str, found))}; name it with text_column="
        )
    return wanted


def lines_of(texts: Any, labels: Any, name: str) -> bytes:
    """Texts and their labels as JSON lines.

    Raises:
        DataError: if they are not as many, or hold what JSON cannot.
    """
    texts, labels = list_of_texts(texts), list(labels)
    if len(texts) != len(labels):
        raise DataError(f"{name}: {len(texts)} texts and {len(labels)} labels, lengths must match")
    rows = (
        {"text": text, "label": label.tolist() if hasattr(label, "tolist") else label}
        for text, label in zip(texts, labels, strict=True)
    )
    try:
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    except TypeError as error:
        raise DataError(f"{name}: a label is no text and no whole number: {error}") from error
