"""Text columns from data frame libraries, and the columns of their predictions.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from leantune.data.label_sets import check_joinable, joined
from leantune.data.text.cells import is_encodable
from leantune.errors import DataError
from leantune.inference.text_classifier import TextClassifier
from leantune.system.messages import shown, type_word

LABEL, SCORE = "label", "score"
DECIMALS = 6
"""Number of decimals of probabilities, as in the files of ``leantune predict``."""


def predicted(
    trained: TextClassifier, texts: Sequence[str], pairs: Sequence[str] | None
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Predict N texts.

    Returns:
        The predicted labels (N), their probabilities ``(N,)``, and the probabilities of all classes ``(N, C)``. If a
        text may have several labels, they are joined by ``|``, and the highest probability is returned.

    Raises:
        UsageError: if a label contains ``|``.
        LeantuneError: see `TextClassifier.predict_proba`.
    """
    probabilities = trained.predict_proba(texts, pairs)
    best = probabilities.argmax(axis=1)
    rounded = np.round(probabilities, DECIMALS)
    thresholds = trained.thresholds
    if thresholds is not None:
        check_joinable(trained.labels.names)
        labels = [joined(trained.labels.names, row >= thresholds) for row in probabilities]
        return labels, rounded.max(axis=1), rounded
    return [trained.labels.names[i] for i in best], rounded[np.arange(len(best)), best], rounded


def checked_texts(cells: Sequence[object], column: str, row_name: Callable[[int], str]) -> list[str]:
    """Return the cells of a column as texts. Empty texts are allowed.

    Args:
        cells: one cell per row.
        column: name of the column, for messages.
        row_name: returns the name of the row at a position, for messages.

    Raises:
        DataError: if a cell is not a text; the message names the column and the first such row.
    """
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells) or not is_encodable("".join(texts)):
        i, found = next((i, word) for i, cell in enumerate(cells) if (word := _what_else(cell)) is not None)
        raise DataError(
            f"column {shown(column)}, {row_name(i)}: {found}, expected a text; fill in or drop such rows"
        )
    return [str(text) for text in texts]  # converts numpy's string type


def _what_else(cell: object) -> str | None:
    """Describe a cell that is not a valid text, or return None."""
    if isinstance(cell, str):
        return None if is_encodable(cell) else "an unpaired surrogate"
    is_missing = cell is None or (isinstance(cell, float) and math.isnan(cell))  # pandas uses NaN
    return "null" if is_missing else type_word(cell)
