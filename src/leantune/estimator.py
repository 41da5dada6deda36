"""leantune as a scikit-learn estimator: fit, predict, predict_proba, score."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from leantune.atomic import atomic_file
from leantune.config import load_recipe
from leantune.console import console
from leantune.data.cells import list_of_texts
from leantune.errors import DataError, Interrupted, UsageError
from leantune.inference.load import TrainedClassifier, load_run
from leantune.inference.predict import predict_texts
from leantune.report import write_model_card, write_report
from leantune.training.folder import check_folder
from leantune.training.run import run_training

SET_BY_ARGUMENTS = {"data", "labels", "max_trainable_params", "model", "output"}
"""Recipe keys that are no business of ``recipe``."""
ROWS = "rows.jsonl"
"""What ``fit`` was given, in the run folder if that is kept: ``recipe.yaml`` names it."""


class LeanTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier inside a parameter budget.

    Args:
        model: pretrained encoder: a folder, a hub name, or ``asset:minilm``.
        max_trainable_params: limit on trainable parameters.
        output: run folder to keep, with the rows in it, which fitting again replaces; None: a temporary one that
            lives as long as the estimator.
        recipe: any other recipe keys, as in a recipe file.
        verbose: show progress on standard error.

    Attributes:
        classes_: ``(C,)`` the labels in the order of the columns of ``predict_proba``.
        run_: the run folder, with report, adapter and merged model.
        record_: its ``record.json``.

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
        """Train on texts ``X`` and their labels ``y`` (texts or whole numbers).

        Raises:
            DataError: for texts or labels that are not what they must be.
            UsageError: for settings that cannot be.
            KeyboardInterrupt: after Ctrl-C, when the step is done and saved, or at once after a second one.
        """
        clashes = sorted(SET_BY_ARGUMENTS & set(self.recipe or {}))
        if clashes:
            raise UsageError(
                f"recipe: {', '.join(clashes)} cannot be set there: they are arguments of LeanTextClassifier or of fit"
            )
        texts, labels, classes = _checked(X, y)
        folder = Path(tempfile.mkdtemp(prefix="leantune-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        output = Path(self.output).expanduser() if self.output else folder / "run"
        is_own = getattr(self, "run_", None) == output  # of an earlier fit
        check_folder(output, overwrite=is_own, resume=False)
        rows = (output if self.output else folder) / ROWS
        with atomic_file(rows) as path, path.open("w", encoding="utf-8") as file:
            for text, label in zip(texts, labels, strict=True):
                file.write(json.dumps({"text": text, "label": str(label)}) + "\n")
        settings = {
            **(self.recipe or {}),
            "data": str(rows),
            "model": self.model,
            "max_trainable_params": self.max_trainable_params,
            "output": str(output),
            "labels": [str(each) for each in classes],
        }
        terminal = console(stderr=True, quiet=not self.verbose)
        recipe = load_recipe(None, settings)
        try:
            self.run_ = run_training(recipe, console=terminal, overwrite=is_own)
        except Interrupted as error:
            if error.exit_code != 128 + signal.SIGINT:
                raise
            raise KeyboardInterrupt from (error if self.output else None)  # a temporary run cannot be resumed
        write_model_card(self.run_)
        write_report(self.run_)
        self.classes_ = classes
        self.record_ = json.loads((self.run_ / "record.json").read_text("utf-8"))
        self._trained: TrainedClassifier = load_run(self.run_, trust_remote_code=recipe.trust_remote_code)
        return self

    def predict_proba(self, X: Sequence[str]) -> npt.NDArray[np.float64]:
        """Class probabilities ``(N, C)`` float64, columns as in ``classes_``.

        Raises:
            DataError: for what is no text.
        """
        check_is_fitted(self, "classes_")
        return predict_texts(self._trained, X)

    def predict(self, X: Sequence[str]) -> npt.NDArray[Any]:
        """The most probable class of every text ``(N,)``, in the type of the labels."""
        labels: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


def _checked(X: Sequence[str], y: Sequence[Any]) -> tuple[list[str], npt.NDArray[Any], npt.NDArray[Any]]:
    """Texts, their labels ``(N,)``, and the classes ``(C,)`` in order.

    Raises:
        DataError: naming what cannot be learnt from.
    """
    texts = list_of_texts(X)
    blank = next((i for i, text in enumerate(texts) if not text.strip()), None)
    if blank is not None:
        raise DataError(f"text {blank} (counted from 0) is blank: leave it out, and its label")
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"labels of shape {labels.shape}, expected one label a text, ({len(texts)},)")
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels, expected as many")
    missing = next((i for i, label in enumerate(y) if _is_missing(label)), None)
    if missing is not None:
        raise DataError(f"label {missing} (counted from 0) is missing: leave it out, and its text")
    return texts, labels, np.unique(labels)


def _is_missing(label: object) -> bool:
    """None, NaN or pandas' NA, whose comparisons have no truth."""
    is_unlike_itself: object = label != label
    return label is None or not isinstance(is_unlike_itself, (bool, np.bool_)) or bool(is_unlike_itself)
