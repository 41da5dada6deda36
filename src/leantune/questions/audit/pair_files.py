"""The files of an audit of rows with several labels each: pairs of a row and a label that is doubtful there.

Shapes: N rows, C labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leantune.questions.audit.files import (
    CLASSES,
    LABELLING,
    LABELS,
    PROBABILITIES,
    SUSPECTS,
    TASKS,
    labelling,
    write_table,
)
from leantune.system.atomic import atomic_folder

if TYPE_CHECKING:
    from leantune.questions.audit.compute import Audit

BY_LABEL = "labels.csv"


def write_pair_audit(folder: Path, audit: Audit, texts: Mapping[int, str]) -> None:
    """Write all files into a new folder, whole or not at all.

    Args:
        folder: which is not there.
        audit: what was found, of rows with several labels each.
        texts: by the rows of the file, from 0; those of `suspect_pairs` are needed.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    import numpy as np

    pairs = suspect_pairs(audit)
    with atomic_folder(folder) as temporary:
        write_table(temporary / SUSPECTS, [_suspect(audit, *pair, texts) for pair in pairs])
        write_table(temporary / BY_LABEL, by_label(audit, pairs))
        tasks = [_task(audit, position, texts) for position in dict.fromkeys(row for row, _ in pairs)]
        (temporary / TASKS).write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (temporary / LABELLING).write_text(labelling(audit.names, choice="multiple"), "utf-8")
        np.save(temporary / PROBABILITIES, audit.probabilities)
        np.save(temporary / LABELS, audit.rows.label_ids)
        (temporary / CLASSES).write_text(json.dumps(audit.names, ensure_ascii=False) + "\n", "utf-8")


def suspect_pairs(audit: Audit) -> list[tuple[int, int]]:
    """Position and label of the pairs that are more probably not as the row says, the most suspect first."""
    import numpy as np

    scores = audit.pair_scores
    order = np.argsort(-scores, axis=None, kind="stable")
    return [divmod(int(pair), scores.shape[1]) for pair in order if scores.flat[pair] > 0]


def by_label(audit: Audit, pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """How often each label is there and doubtful, or not there and probable, most first."""
    counts: dict[str, dict[str, Any]]
    counts = {name: {"label": name, "doubtful": 0, "missing": 0} for name in audit.names}
    for position, label in pairs:
        counts[audit.names[label]]["doubtful" if audit.rows.label_ids[position, label] else "missing"] += 1
    return sorted(counts.values(), key=lambda each: -each["doubtful"] - each["missing"])


def _suspect(audit: Audit, position: int, label: int, texts: Mapping[int, str]) -> dict[str, Any]:
    row = int(audit.rows.row_of[position])
    return {
        "row": row,
        "label": audit.names[label],
        "found": "doubtful" if audit.rows.label_ids[position, label] else "missing",
        "probability": round(float(audit.probabilities[position, label]), 4),
        "score": round(float(audit.pair_scores[position, label]), 4),
        "labels": "|".join(_names(audit, audit.rows.label_ids[position])),
        "text": texts[row],
    }


def _task(audit: Audit, position: int, texts: Mapping[int, str]) -> dict[str, Any]:
    """A task of Label Studio with the probable labels as its prediction."""
    row = int(audit.rows.row_of[position])
    likely = _names(audit, audit.probabilities[position] > 0.5)
    choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": likely}}
    labelled = ", ".join(_names(audit, audit.rows.label_ids[position]))
    data = {"text": texts[row], "row": row, "label": labelled, "likely": ", ".join(likely)}
    prediction = {
        "model_version": "leantune audit",
        "score": round(float(audit.pair_scores[position].max()), 4),
        "result": [choice],
    }
    return {"data": data, "predictions": [prediction]}


def _names(audit: Audit, has_each: Any) -> list[str]:
    return [name for name, has in zip(audit.names, has_each, strict=True) if has]
