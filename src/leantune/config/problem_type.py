"""The problem types, named as in transformers: one label per text, several labels per text, and unsupported ones."""

from __future__ import annotations

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
NUMERIC = ("regression", "ordinal_regression", "ordinal_classification", "ordinal", "ranking")
"""Names of unsupported problem types with numeric targets that users may know from other tools."""
BINNED = (
    "leantune trains classifiers; put the numbers into bins, such as low, middle and high, and give those as "
    "labels"
)


def problem_with(problem_type: str | None) -> str:
    """Return the message for an invalid ``problem_type`` of a recipe; empty for a valid one."""
    if problem_type in (None, SINGLE_LABEL, MULTI_LABEL):
        return ""
    if problem_type.lower().replace("-", "_") in NUMERIC:
        return f"problem_type={problem_type}: {BINNED}"
    return f"problem_type must be {SINGLE_LABEL} or {MULTI_LABEL}. Got {problem_type[:100]} instead"
