"""How many labels a text has, in the words of transformers; and what leantune does not train."""

from __future__ import annotations

SINGLE_LABEL, MULTI_LABEL = "single_label_classification", "multi_label_classification"
NUMERIC = ("regression", "ordinal_regression", "ordinal_classification", "ordinal", "ranking")
"""Words that users may know from elsewhere: their targets are numbers."""
BINNED = (
    "leantune trains classifiers; put the numbers into bins, such as low, middle and high, and give those as "
    "labels"
)


def problem_with(problem_type: str | None) -> str:
    """What is wrong with a ``problem_type`` of a recipe; empty where nothing is."""
    if problem_type in (None, SINGLE_LABEL, MULTI_LABEL):
        return ""
    if problem_type.lower().replace("-", "_") in NUMERIC:
        return f"problem_type={problem_type}: {BINNED}"
    return f"problem_type must be {SINGLE_LABEL} or {MULTI_LABEL}. Got {problem_type[:100]} instead"
