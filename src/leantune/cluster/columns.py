"""Columns of texts that other libraries hand over, and the columns of what is predicted of them.

N rows, C classes.
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
"""Probabilities have so many, as in the files of ``leantune predict``."""


def predicted(
    trained: TextClassifier, texts: Sequence[str], pairs: Sequence[str] | None
) -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The most probable classes of N texts, their probabilities ``(N,)`` and those of all classes ``(N, C)``; where a
    text may have several labels, all that are predicted, joined by ``|``, and the highest probability.

    Raises:
        UsageError: for a label that holds ``|`` itself.
        LeantuneError: as `TextClassifier.predict_proba`.
    """
    probabilities = trained.predict_proba(texts, pairs)
    best = probabilities.argmax(axis=1)
    rounded = np.round(probabilities, DECIMALS)
    thresholds = trained.thresholds
    if thresholds is not None:
        check_joinable(trained.classes)
        labels = [joined(trained.classes, row >= thresholds) for row in probabilities]
        return labels, rounded.max(axis=1), rounded
    return [trained.classes[i] for i in best], rounded[np.arange(len(best)), best], rounded


def checked_texts(cells: Sequence[object], column: str, row_name: Callable[[int], str]) -> list[str]:
    """The cells of a column, each of which must be a text; it may be empty.

    Args:
        cells: one a row.
        column: its name, for messages.
        row_name: what messages call the row at a position.

    Raises:
        DataError: naming column and row of the first that is none.
    """
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells) or not is_encodable("".join(texts)):
        i, found = next((i, word) for i, cell in enumerate(cells) if (word := _what_else(cell)) is not None)
        raise DataError(
            f"column {shown(column)}, {row_name(i)}: {found}, expected a text; fill it in or drop such rows"
        )
    return [str(text) for text in texts]  # numpy has a type of its own


def _what_else(cell: object) -> str | None:
    """What a cell is that is no text of whole characters."""
    if isinstance(cell, str):
        return None if is_encodable(cell) else "half of a surrogate pair"
    is_missing = cell is None or (isinstance(cell, float) and math.isnan(cell))  # as pandas writes it
    return "null" if is_missing else type_word(cell)
