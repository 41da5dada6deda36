"""Questions about rows and runs, for rows in files or in memory: `frontier`, `audit`, `learning_curve`,
`abstain`, `compare`, `passport`, `explain`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from leantune.api import settings_of
from leantune.assets.download import resolve_location
from leantune.config import Recipe
from leantune.config.abstention_file import Abstention
from leantune.config.classifier_file import InferenceSettings
from leantune.data.text.cells import list_of_texts
from leantune.data.text.columns import columns_for
from leantune.data.text.read import open_examples
from leantune.errors import UsageError
from leantune.inference.load import require_run
from leantune.inference.saved import read_saved
from leantune.inference.text_classifier import TextClassifier
from leantune.questions.abstain.compute import abstain as abstain_run
from leantune.questions.audit.compute import Audit
from leantune.questions.audit.compute import audit as audit_recipe
from leantune.questions.compare.compute import RunComparison, compare_runs
from leantune.questions.explain.compute import explain as explain_run
from leantune.questions.explain.explanation import Explanation
from leantune.questions.frontier.compute import Frontier
from leantune.questions.frontier.compute import frontier as frontier_of
from leantune.questions.learning_curve.compute import LearningCurve
from leantune.questions.learning_curve.compute import learning_curve as learning_curve_of
from leantune.questions.passport.compute import Passport
from leantune.questions.passport.compute import passport as passport_of
from leantune.system.console import console
from leantune.training.before.rows_in_memory import columns_of, rows_as_files


def frontier(
    data: Any,
    *,
    model: str | os.PathLike[str] | None = None,
    max_trainable_params: float | str | None = None,
    validation: Any = None,
    with_full: bool = True,
    quiet: bool = False,
    **recipe: Any,
) -> Frontier:
    """Measure classifiers of many sizes in the time of two to three runs, from a linear probe to full fine-tuning.

    Args:
        data: labelled rows, as `leantune.train` takes them.
        model: as `leantune.train` takes it.
        max_trainable_params: limit of the largest classifier; None: rank 16 in all linear layers.
        validation: rows to measure on; None: a hold-out.
        with_full: whether to fine-tune all weights, too.
        quiet: show no progress on standard error.
        recipe: any other recipe key.

    Returns:
        ``points`` from the smallest to the largest, each with ``parameters``, ``accuracy`` and ``interval``; ``best``,
        and ``smallest``, which is within a standard error of it and whose ``recipe`` trains it.

    Raises:
        UsageError: for settings that cannot be.
        DataError: for rows that are not what they must be, or of which none is held out.
    """
    with _settings({"data": data, "validation": validation}, recipe, model, max_trainable_params) as settings:
        return frontier_of(settings, console=console(stderr=True, quiet=quiet), with_full=with_full)


def audit(
    data: Any,
    *,
    model: str | os.PathLike[str] | None = None,
    max_trainable_params: float | str | None = None,
    folds: int = 5,
    quiet: bool = False,
    **recipe: Any,
) -> Audit:
    """Find the labels that are probably wrong: each row is classified by a classifier that has not seen it.

    Args:
        data: labelled rows, as `leantune.train` takes them; N of them.
        model: as `leantune.train` takes it.
        max_trainable_params: as `leantune.train` takes it.
        folds: classifiers that are trained, each on all other rows; 2 or more.
        quiet: show no progress on standard error.
        recipe: any other recipe key.

    Returns:
        ``probabilities`` ``(N, C)`` and ``score`` ``(N,)`` in the order of the rows, ``suspects``, the positions of
        rows whose label is not the likely class, the most suspect first, and ``confusion()``.

    Raises:
        UsageError: for settings that cannot be.
        DataError: for rows that are not what they must be, or too few.
    """
    if folds < 2:
        raise UsageError(f"folds must be 2 or more. Got {folds} instead")
    with _settings({"data": data}, recipe, model, max_trainable_params) as settings:
        return audit_recipe(settings, folds=folds, console=console(stderr=True, quiet=quiet))


def learning_curve(
    data: Any,
    *,
    model: str | os.PathLike[str] | None = None,
    max_trainable_params: float | str | None = None,
    validation: Any = None,
    quiet: bool = False,
    **recipe: Any,
) -> LearningCurve:
    """Forecast what more labelled rows would give, from accuracies with half of them, a quarter and so on.

    Args:
        data: labelled rows, as `leantune.train` takes them.
        model: as `leantune.train` takes it.
        max_trainable_params: as `leantune.train` takes it.
        validation: rows to measure on; None: a hold-out.
        quiet: show no progress on standard error.
        recipe: any other recipe key.

    Returns:
        ``points``, measured accuracies; ``forecast(rows)``, an accuracy with a 90 % interval; ``rows_until(accuracy)``.

    Raises:
        UsageError: for settings that cannot be.
        DataError: for rows that are not what they must be, or too few.
    """
    with _settings({"data": data, "validation": validation}, recipe, model, max_trainable_params) as settings:
        return learning_curve_of(settings, console=console(stderr=True, quiet=quiet))


def passport(
    run: str | os.PathLike[str],
    data: Any,
    *,
    url: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> Passport:
    """Compare every form in which a run is deployed with the run as it was measured, on the same rows.

    Args:
        run: the run folder.
        data: labelled rows that were not trained on, as `leantune.train` takes them.
        url: of a server of the run, as ``http://127.0.0.1:8000``.
        text_column: column of the text; None: as in training.
        text_pair_column: column of the second text; None: as in training.
        label_column: column of the label; None: as in training.

    Returns:
        ``forms``, the run as measured first; ``form.lost(0.02)`` are the classes that lose more than 2 points in it.

    Raises:
        UsageError: if ``run`` is no run, or the server does not answer.
        DataError: for rows that are not what they must be.
        CheckpointError: if the run or an export is damaged.
    """
    folder = Path(run).expanduser()
    require_run(folder)
    settings = read_saved(folder).settings
    with _labelled_file(data, settings, text_column, text_pair_column, label_column) as (file, columns):
        source = open_examples(
            resolve_location(file),
            columns_for(settings, **columns),
            labels="required",
            split="test",
        )
        return passport_of(folder, source, url=url)


def abstain(
    run: str | os.PathLike[str],
    data: Any = None,
    *,
    precision: float,
    confidence: float = 0.95,
    quiet: bool = False,
) -> Abstention:
    """Choose the probability below which a classifier does not answer, and write it beside its weights.

    Args:
        run: the run folder. `TextClassifier.predict_or_abstain` of a classifier loaded from it uses the choice.
        data: labelled rows that were not trained on, as `leantune.train` takes them; None: the run's validation rows.
        precision: share of answers that must be right, between 0 and 1.
        confidence: probability that a threshold keeps the precision, between 0 and 1.
        quiet: show no progress on standard error.

    Returns:
        ``overall``, the threshold of all classes, and ``per_class``; each has ``least``, the probability, and
        ``coverage``, the share of rows that are answered. ``overall`` is None where no threshold keeps the precision.

    Raises:
        UsageError: if ``run`` is no run, or a share is not between 0 and 1.
        DataError: for invalid rows, or too few.
        CheckpointError: if the run is damaged.
    """
    for name, share in {"precision": precision, "confidence": confidence}.items():
        if not 0 < share < 1:
            raise UsageError(f"{name} must be between 0 and 1. Got {share} instead")
    folder = Path(run).expanduser()
    parts = {} if data is None else {"data": data}
    with (
        tempfile.TemporaryDirectory() as temporary,
        rows_as_files(parts, Path(temporary), {}) as files,
        console(stderr=True, quiet=quiet).status("classifying"),
    ):
        return abstain_run(
            folder, files.get("data"), precision=precision, confidence=confidence, **columns_of(data)
        )


def compare(
    runs: Sequence[str | os.PathLike[str]],
    data: Any = None,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    quiet: bool = False,
) -> RunComparison:
    """Compare runs row by row, as ``leantune report RUN RUN`` does.

    Args:
        runs: folders of finished runs, two or more.
        data: labelled rows that none was trained on, as `leantune.train` takes them; None: the test rows if all runs
            were measured on the same, else the validation rows that all of them held out.
        text_column: column of the text in ``data``; None: as in training.
        text_pair_column: column of the second text in ``data``; None: as in training.
        label_column: column of the label in ``data``; None: as in training.
        quiet: show no progress on standard error.

    Returns:
        ``runs``, each with ``metrics`` on the same rows, and ``against_first``, one for each other run: ``comparison``
        has the difference of accuracies with its interval, ``classes`` the differences by class, ``only_first_right``
        and ``only_other_right`` the rows where they disagree.

    Raises:
        UsageError: if there are fewer than two runs, a folder is no run, or the runs have other labels or no common
            rows.
        DataError: if the rows cannot be read again or are not what they must be.
        CheckpointError: if a run is damaged.
    """
    folders = [Path(run).expanduser() for run in runs]
    with console(stderr=True, quiet=quiet).status("classifying"):
        if data is None or len(folders) < 2:
            return compare_runs(folders)
        require_run(folders[0])
        settings = read_saved(folders[0]).settings
        with _labelled_file(data, settings, text_column, text_pair_column, label_column) as (file, columns):
            found = compare_runs(folders, file, **columns)
    return found if isinstance(data, str | os.PathLike) else replace(found, rows="data")


def explain(
    run: str | os.PathLike[str] | TextClassifier,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    nearest: int = 3,
    words: bool | None = None,
    class_name: str | None = None,
) -> list[Explanation]:
    """Which training texts are near to a text, and which of its words speak for the prediction: evidence, not proof.

    Args:
        run: the folder of a finished run, or a classifier that was loaded from one.
        texts: N texts.
        pairs: N second texts, for a classifier of pairs.
        nearest: training texts that are named for each; 0: none, and the training rows are not read again.
        words: whether words get weights, by integrated gradients, which need ``pip install 'leantune[explain]'``; None:
            if it is installed.
        class_name: whose logit the weights are of; None: the predicted class of each text.

    Returns:
        N explanations, each with ``nearest`` and ``words``.

    Raises:
        UsageError: if ``run`` is no run, has no such class, its training rows cannot be had or captum is not installed.
        DataError: if its training rows have changed, or a text is none.
        CheckpointError: if the run is damaged.
    """
    if nearest < 0:
        raise UsageError(f"nearest must be 0 or more. Got {nearest} instead")
    return explain_run(
        run.source if isinstance(run, TextClassifier) else Path(run).expanduser(),
        list_of_texts(texts),
        None if pairs is None else list_of_texts(pairs),
        count=nearest,
        with_words=words,
        class_name=class_name,
    )


@contextlib.contextmanager
def _labelled_file(
    data: Any,
    settings: InferenceSettings,
    text_column: str | None,
    text_pair_column: str | None,
    label_column: str | None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labelled rows as a file, and its columns, while the block runs.

    Rows in memory have the columns of training where none is named.
    """
    columns = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        **columns_of(data),
    }
    of_rows = {
        "text_column": columns["text_column"] or settings.text_column,
        "text_pair_column": columns["text_pair_column"],
        "label_column": columns["label_column"] or settings.label_column,
    }
    with (
        tempfile.TemporaryDirectory() as temporary,
        rows_as_files({"data": data}, Path(temporary), of_rows) as files,
    ):
        yield files["data"], columns


@contextlib.contextmanager
def _settings(
    parts: Mapping[str, Any],
    recipe: Mapping[str, Any],
    model: str | os.PathLike[str] | None,
    max_trainable_params: float | str | None,
) -> Iterator[Recipe]:
    """A recipe over rows that are files while the block runs; torch's generators stay the caller's.

    Raises:
        UsageError: for rows that are not looked at.
    """
    unused = [key for key in ("test", "validation", "unlabelled", "output") if recipe.get(key) is not None]
    if unused:
        raise UsageError(f"{', '.join(unused)}: not used here, and nothing is written; leave it out")
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with tempfile.TemporaryDirectory() as temporary, torch.random.fork_rng(devices):
        folder = Path(temporary)
        with rows_as_files(parts, folder, recipe) as files:
            yield settings_of(
                recipe,
                model=model,
                max_trainable_params=max_trainable_params,
                output=folder / "run",
                files=files,
            )
