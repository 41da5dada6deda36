"""Fine-tune text classifiers inside a parameter budget.

`train` makes a classifier of labelled rows, `load` opens one, `plan` says what a run would train, before it does.
`frontier`, `learning_curve`, `audit`, `abstain`, `passport` and `explain` are the commands of these names;
`compare` is `leantune report RUN RUN`.
`LeanTextClassifier` is the same for scikit-learn, and `AdaLoraCallback` runs AdaLoRA's allocator in transformers'
``Trainer``. What is not named here may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leantune._version import __version__

__all__ = [
    "AdaLoraCallback",
    "LeanTextClassifier",
    "LeantuneError",
    "TextClassifier",
    "__version__",
    "abstain",
    "audit",
    "compare",
    "errors",
    "explain",
    "frontier",
    "learning_curve",
    "load",
    "passport",
    "plan",
    "train",
]

if TYPE_CHECKING:
    from leantune import errors
    from leantune.analysis import abstain, audit, compare, explain, frontier, learning_curve, passport
    from leantune.api import plan, train
    from leantune.errors import LeantuneError
    from leantune.estimator import LeanTextClassifier
    from leantune.inference.load import load
    from leantune.inference.text_classifier import TextClassifier
    from leantune.integrations import AdaLoraCallback

_HOMES = {
    "AdaLoraCallback": "leantune.integrations",
    "LeanTextClassifier": "leantune.estimator",
    "LeantuneError": "leantune.errors",
    "TextClassifier": "leantune.inference.text_classifier",
    "abstain": "leantune.analysis",
    "audit": "leantune.analysis",
    "compare": "leantune.analysis",
    "explain": "leantune.analysis",
    "frontier": "leantune.analysis",
    "learning_curve": "leantune.analysis",
    "load": "leantune.inference.load",
    "passport": "leantune.analysis",
    "plan": "leantune.api",
    "train": "leantune.api",
}
"""Where each name is imported from when it is first asked for: ``import leantune`` itself takes no time."""


def __getattr__(name: str) -> Any:
    import importlib

    if name == "errors":
        return importlib.import_module("leantune.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'leantune' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
