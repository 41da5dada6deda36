"""leantune as a scikit-learn estimator: fit, predict, predict_proba, score."""

from __future__ import annotations

import json
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

from leantune.config import load_recipe
from leantune.console import console
from leantune.data.cells import list_of_texts
from leantune.errors import DataError
from leantune.inference.load import TrainedClassifier, load_run
from leantune.inference.predict import predict_texts
from leantune.report import write_model_card, write_report
from leantune.training.run import run_training


class LeanTextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier inside a parameter budget.

    Args:
        model: pretrained encoder: a folder, a hub name, or ``asset:minilm``.
        max_trainable_params: limit on trainable parameters.
        output: run folder to keep, which fitting again replaces; None: a temporary one that lives as long as
            the estimator.
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
        """
        texts = list_of_texts(X)
        if len(texts) != len(y):
            raise DataError(f"{len(texts)} texts and {len(y)} labels, expected as many")
        missing = next((i for i, label in enumerate(y) if label is None or label != label), None)
        if missing is not None:
            raise DataError(f"label {missing} (from 0) is missing: leave its text out")
        classes = np.unique(np.asarray(y))
        folder = Path(tempfile.mkdtemp(prefix="leantune-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        data = folder / "train.jsonl"
        with data.open("w", encoding="utf-8") as file:
            for text, label in zip(texts, y, strict=True):
                file.write(json.dumps({"text": text, "label": str(label)}) + "\n")
        settings = {
            **(self.recipe or {}),
            "data": str(data),
            "model": self.model,
            "max_trainable_params": self.max_trainable_params,
            "output": self.output or str(folder / "run"),
            "labels": [str(each) for each in classes],
        }
        terminal = console(stderr=True, quiet=not self.verbose)
        recipe = load_recipe(None, settings)
        is_own = getattr(self, "run_", None) == Path(recipe.output)  # of an earlier fit
        self.run_ = run_training(recipe, console=terminal, overwrite=is_own)
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
