"""leantune as a scikit-learn estimator: fit, predict, predict_proba, score."""

from __future__ import annotations

import hashlib
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

from leantune.atomic import write_text
from leantune.config import load_recipe
from leantune.console import console
from leantune.data.cells import list_of_texts
from leantune.errors import DataError, Interrupted, UsageError
from leantune.inference.load import TrainedClassifier, load_run
from leantune.inference.predict import predict_texts
from leantune.report import write_model_card, write_report
from leantune.training.folder import RECORD, check_folder
from leantune.training.run import run_training

SET_BY_ARGUMENTS = {"data", "labels", "max_trainable_params", "model", "output"}
"""Recipe keys that are no business of ``recipe``."""


class LeanTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier inside a parameter budget.

    Args:
        model: pretrained encoder: a folder, a hub name, or ``asset:minilm``.
        max_trainable_params: limit on trainable parameters.
        output: run folder to keep, with the rows in it (``rows-….jsonl``), which fitting again replaces; None: a
            temporary one that lives as long as the estimator.
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
        if not isinstance(self.recipe, Mapping | None):
            raise UsageError(
                f"recipe: expected a mapping of recipe keys. Got {type(self.recipe).__name__} instead"
            )
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
        if (output / RECORD).exists() and not is_own:
            raise UsageError(
                f"output {output}: holds a run already, of another estimator; choose another output, or remove it"
            )
        check_folder(output, overwrite=is_own, resume=False)
        content = _lines_of(texts, labels)
        # its own name tells what is in it, so that it replaces no other file
        name = f"rows-{hashlib.sha256(content.encode()).hexdigest()[:12]}.jsonl"
        rows = (output if self.output else folder) / name
        written = {getattr(self, "_rows", rows), *([] if rows.exists() else [rows])}
        write_text(rows, content)
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
        finally:
            _remove_rows_of_no_run(output, written)
        write_model_card(self.run_)
        write_report(self.run_)
        self.classes_, self._rows = classes, rows
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
        best = self.predict_proba(X).argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels


def _lines_of(texts: Sequence[str], labels: npt.NDArray[Any]) -> str:
    """What ``fit`` was given, as the file that ``recipe.yaml`` names."""
    return "".join(
        json.dumps({"text": text, "label": str(label)}) + "\n"
        for text, label in zip(texts, labels, strict=True)
    )


def _remove_rows_of_no_run(output: Path, written: set[Path]) -> None:
    """Of the files that an estimator wrote, keep the one that the run in ``output`` was made of."""
    record = output / RECORD
    used = json.loads(record.read_text("utf-8"))["recipe"]["data"] if record.is_file() else None
    for path in written:
        if str(path) != used:
            path.unlink(missing_ok=True)


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
    for i, label in enumerate(y):
        if _is_missing(label) or not str(label).strip():
            raise DataError(f"label {i} (counted from 0) is missing: leave it out, and its text")
    classes = np.unique(labels)
    if len(classes) < 2:
        raise DataError(f"{len(classes)} class in the labels, expected two or more")
    return texts, labels, classes


def _is_missing(label: object) -> bool:
    """None, NaN or pandas' NA, whose comparisons have no truth."""
    is_unlike_itself: object = label != label
    return label is None or not isinstance(is_unlike_itself, (bool, np.bool_)) or bool(is_unlike_itself)
