"""The problem types, named as in transformers, and the types of labels that are not texts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal, TypeAlias

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
LabelType: TypeAlias = Literal["int", "bool"]
"""Type of labels that are not texts, as Python calls it."""
NUMERIC = ("regression", "ordinal_regression", "ordinal_classification", "ordinal", "ranking")
"""Names of unsupported problem types with numeric targets that users may know from other tools."""
BINNED = (
    "leantune trains classifiers; put the numbers into bins, such as low, middle and high, and give those as "
    "labels"
)


_INTEGER = re.compile(r"0|-?[1-9]\d*", re.ASCII)


def are_of_type(names: Iterable[str], label_type: LabelType | None) -> bool:
    """Return whether every name is a label of a type as Python prints it (``7``, ``-1``, not ``007``; ``True``)."""
    if label_type == "int":
        return all(_INTEGER.fullmatch(name) for name in names)
    return label_type is None or {str(True), str(False)}.issuperset(names)


def problem_with(problem_type: str | None) -> str:
    """Return the message for an invalid ``problem_type`` of a recipe; empty for a valid one."""
    if problem_type in (None, SINGLE_LABEL, MULTI_LABEL):
        return ""
    if problem_type.lower().replace("-", "_") in NUMERIC:
        return f"problem_type={problem_type}: {BINNED}"
    return f"problem_type must be {SINGLE_LABEL} or {MULTI_LABEL}. Got {problem_type[:100]} instead"
