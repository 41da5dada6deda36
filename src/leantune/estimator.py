"""A scikit-learn estimator: fit, predict, predict_proba, score."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from leantune.api import run_recipe
from leantune.config import load_recipe
from leantune.config.problem_type import SINGLE_LABEL
from leantune.config.record.run import RECORD, RunRecord, read_record, to_json
from leantune.data.text.cells import is_blank, list_of_texts
from leantune.errors import DataError, UsageError
from leantune.inference.load import load_run
from leantune.inference.text_classifier import TextClassifier
from leantune.training.before.folder import check_folder
from leantune.training.before.rows_in_memory import rows_as_files

SET_BY_ARGUMENTS = {"data", "labels", "max_trainable_params", "model", "output"}
"""Recipe keys that cannot be set in ``recipe``, because they are arguments of the estimator or of ``fit``."""

_temporary_folders: weakref.WeakKeyDictionary[LeanTextClassifier, weakref.finalize[..., LeanTextClassifier]]
_temporary_folders = weakref.WeakKeyDictionary()
"""Finalizers that remove the temporary folder of each estimator's last fit. They cannot be pickled, so they are not
attributes of the estimator."""


class LeanTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier trained within a parameter budget.

    Args:
        model: pretrained encoder: a folder, a hub name, or ``asset:minilm``.
        max_trainable_params: limit on trainable parameters.
        output: run folder to keep, which also contains the rows (``rows-….jsonl``). Fitting again replaces it. None for
            a temporary folder that exists until the next fit or the end of the estimator. It must be None in a search
            or a cross-validation, where all fits would use the same folder.
        recipe: other recipe keys, as in a recipe file.
        verbose: whether to show progress on standard error.

    Attributes:
        classes_: class labels ``(C,)`` in the order of the columns of ``predict_proba``.
        run_: run folder with report, adapter and merged model.
        record_: content of the run's ``record.json``.

    Examples:
        >>> LeanTextClassifier(max_trainable_params=50_000).get_params()["max_trainable_params"]
        50000
    """

    def __init__(
        self,
        model: str = "asset:minilm",
        *,
        max_trainable_params: int = 100_000,
        output: str | None = None,
        recipe: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.max_trainable_params = max_trainable_params
        self.output = output
        self.recipe = recipe
        self.verbose = verbose

    def fit(self, X: Sequence[str], y: Sequence[Any]) -> LeanTextClassifier:
        """Train on texts ``X`` and their labels ``y`` (strings or whole numbers).

        Raises:
            DataError: if texts or labels are invalid.
            UsageError: if settings are invalid.
            KeyboardInterrupt: after Ctrl-C, once the current step is saved; a second Ctrl-C interrupts at once.
            SystemExit: likewise after SIGTERM, unless the caller's signal handler raises another exception.
        """
        if not isinstance(self.recipe, Mapping | None):
            raise UsageError(
                f"recipe: expected a mapping of recipe keys. Got {type(self.recipe).__name__} instead"
            )
        clashes = sorted(SET_BY_ARGUMENTS & set(self.recipe or {}))
        if clashes:
            raise UsageError(
                f"recipe: {', '.join(clashes)} cannot be set in recipe: use the arguments of LeanTextClassifier or fit"
            )
        if (self.recipe or {}).get("problem_type") not in (None, SINGLE_LABEL):
            raise UsageError(
                "recipe: problem_type: the estimator supports one label per text only; use leantune.train"
            )
        texts, labels, classes = _checked(X, y)
        if self.output:
            self._fit(Path(os.path.expanduser(self.output)), texts, labels, classes)
            temporary = None
        else:
            folder = Path(tempfile.mkdtemp(prefix="leantune-"))
            temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            try:
                self._fit(folder / "run", texts, labels, classes)
            except BaseException:
                temporary()
                raise
        earlier = _temporary_folders.pop(self, None)
        if earlier is not None:
            earlier()
        if temporary is not None:
            _temporary_folders[self] = temporary
        return self

    def _fit(
        self, output: Path, texts: list[str], labels: npt.NDArray[Any], classes: npt.NDArray[Any]
    ) -> None:
        found = _record_in(output).get("run_id")
        is_own = found is not None and found == getattr(self, "_run_id", None)
        if found is not None and not is_own:
            raise UsageError(
                f"output {output}: already holds a run of another estimator; choose another output, or remove the "
                "folder (use output=None in a search or a cross-validation, which clone the estimator)"
            )
        check_folder(output, overwrite=is_own, resume=False)
        recipe = {**(self.recipe or {}), "labels": [str(each) for each in classes]}
        # whole numbers and booleans keep their type; floats are written as `classes_` are
        rows = (texts, [each if isinstance(each, int) else str(each) for each in labels.tolist()])
        with rows_as_files({"data": rows}, output, recipe) as files:
            own = {"model": self.model, "max_trainable_params": self.max_trainable_params}
            settings = load_recipe(None, {**recipe, **own, **files, "output": str(output)}, place="recipe")
            try:
                run = run_recipe(
                    settings, overwrite=is_own, quiet=not self.verbose, is_kept=bool(self.output)
                )
            except UsageError:  # the run was refused, and the folder is unchanged
                raise
            except BaseException:
                self._run_id = _record_in(output).get(
                    "run_id"
                )  # the run was started: fitting again may replace it
                raise
        self.run_, self.classes_ = run, classes
        self.record_ = _record_in(run)
        self._run_id = self.record_["run_id"]
        self._trained: TextClassifier = load_run(run, trust_remote_code=settings.trust_remote_code)

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return class probabilities ``(N, C)`` in float64, with columns in the order of ``classes_``.

        Raises:
            DataError: if an element is not a text.
        """
        check_is_fitted(self, "classes_")
        return self._trained.predict_proba(X)

    def predict(self, X: Sequence[str]) -> npt.NDArray[Any]:
        """Return the most probable class of every text, ``(N,)``, in the type of the training labels."""
        best = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels


def _record_in(output: Path) -> dict[str, Any]:
    """Return the record of the run in a folder, or an empty dictionary if there is no run."""
    record: dict[str, Any] = {}
    if (output / RECORD).is_file():
        record = to_json(read_record(output, RunRecord))
    return record


def _checked(X: Sequence[str], y: Sequence[Any]) -> tuple[list[str], npt.NDArray[Any], npt.NDArray[Any]]:
    """Return the texts, their labels ``(N,)``, and the sorted classes ``(C,)``.

    Raises:
        DataError: if texts or labels are invalid.
    """
    texts = list_of_texts(X)
    blank = next((i for i, text in enumerate(texts) if is_blank(text)), None)
    if blank is not None:
        raise DataError(f"text {blank} (counted from 0) is blank: remove it and its label")
    try:
        labels = np.asarray(y)
    except ValueError as error:  # lists of different lengths
        raise DataError(
            "got lists of labels, expected one label per text: use leantune.train for several labels per text"
        ) from error
    if labels.ndim != 1:
        raise DataError(f"labels have shape {labels.shape}, expected one label per text: ({len(texts)},)")
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels, lengths must match")
    for i, label in enumerate(labels.tolist()):
        if _is_missing(label) or not str(label).strip():
            raise DataError(f"label {i} (counted from 0) is missing: remove it and its text")
        if isinstance(label, bytes) or (isinstance(label, float) and not label.is_integer()):
            raise DataError(f"label {i} (counted from 0) is {label!r}, expected strings or whole numbers")
    try:
        classes = np.unique(labels)
    except TypeError as error:
        kinds = sorted({type(label).__name__ for label in labels.tolist()})
        raise DataError(
            f"labels have the types {', '.join(kinds)}, expected a single sortable type"
        ) from error
    if len(classes) < 2:
        raise DataError(f"{len(classes)} class in the labels, expected at least 2")
    return texts, labels, classes


def _is_missing(label: object) -> bool:
    """Return whether a label is None, NaN or pandas' NA, whose comparisons have no truth value."""
    is_unlike_itself: object = label != label
    return label is None or not isinstance(is_unlike_itself, (bool, np.bool_)) or bool(is_unlike_itself)
