"""The files of an audit: CSV tables, tasks for Label Studio, and arrays for cleanlab.

With one label per row, rows are suspect. With several labels, pairs of a row and a label are suspect.
Shapes: N rows, C labels.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from leantune.questions.audit.compute import Audit
from leantune.system.atomic import atomic_folder

SUSPECTS, CONFUSION, BY_LABEL = "suspects.csv", "confusion.csv", "labels.csv"
TASKS, LABELLING = "label_studio.json", "label_studio.xml"
PROBABILITIES, LABELS, CLASSES = "pred_probs.npy", "labels.npy", "classes.json"

Pair = tuple[int, int]
"""Position of a row and id of a label."""


def write_audit(folder: Path, audit: Audit) -> None:
    """Write all files into a new folder atomically.

    Args:
        folder: the folder, which must not exist.
        audit: the audit.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    if audit.rows.is_multi_label:
        pairs = suspect_pairs(audit)
        positions = list(dict.fromkeys(position for position, _ in pairs))
        texts = _texts(audit, positions)
        suspects = [_suspect_pair(audit, *pair, texts) for pair in pairs]
        name, table = BY_LABEL, by_label(audit, pairs)
    else:
        positions = [int(position) for position in audit.suspects]
        texts = _texts(audit, positions)
        suspects = [_suspect_row(audit, position, texts) for position in positions]
        name, table = (
            CONFUSION,
            [dict(zip(("label", "likely", "rows"), each, strict=True)) for each in audit.confusion()],
        )
    tasks = [_task(audit, position, texts) for position in positions]
    with atomic_folder(folder) as temporary:
        _write_table(temporary / SUSPECTS, suspects)
        _write_table(temporary / name, table)
        (temporary / TASKS).write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (temporary / LABELLING).write_text(_labelling(audit), "utf-8")
        np.save(temporary / PROBABILITIES, audit.probabilities)
        np.save(temporary / LABELS, audit.rows.label_ids)
        (temporary / CLASSES).write_text(json.dumps(audit.names, ensure_ascii=False) + "\n", "utf-8")


def suspect_pairs(audit: Audit) -> list[Pair]:
    """Return the pairs whose label is more likely wrong than correct, in descending order of score."""
    scores = audit.pair_scores
    order = np.argsort(-scores, axis=None, kind="stable")
    return [divmod(int(pair), scores.shape[1]) for pair in order if scores.flat[pair] > 0]


def by_label(audit: Audit, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Count how often each label is doubtful or missing, most frequent first."""
    counts: dict[str, dict[str, Any]]
    counts = {name: {"label": name, "doubtful": 0, "missing": 0} for name in audit.names}
    for position, label in pairs:
        counts[audit.names[label]][_kind(audit, position, label)] += 1
    return sorted(counts.values(), key=lambda each: -each["doubtful"] - each["missing"])


def _texts(audit: Audit, positions: Sequence[int]) -> dict[int, str]:
    """Return the texts of rows by row number in the file. The texts of a pair are joined."""
    wanted = {int(audit.rows.row_of[position]) for position in positions}
    texts = {}
    for batch in audit.run.data.sources["train"].batches():
        for i, text in enumerate(batch.texts):
            if batch.start + i in wanted:
                texts[batch.start + i] = text if batch.pairs is None else f"{text} | {batch.pairs[i]}"
    return texts


def _suspect_row(audit: Audit, position: int, texts: Mapping[int, str]) -> dict[str, Any]:
    label, likely = int(audit.rows.label_ids[position]), int(audit.likely[position])
    row = int(audit.rows.row_of[position])
    return {
        "row": row,
        "label": audit.names[label],
        "likely": audit.names[likely],
        "p_label": round(float(audit.probabilities[position, label]), 4),
        "p_likely": round(float(audit.probabilities[position, likely]), 4),
        "score": round(float(audit.score[position]), 4),
        "text": texts[row],
    }


def _suspect_pair(audit: Audit, position: int, label: int, texts: Mapping[int, str]) -> dict[str, Any]:
    row = int(audit.rows.row_of[position])
    return {
        "row": row,
        "label": audit.names[label],
        "found": _kind(audit, position, label),
        "probability": round(float(audit.probabilities[position, label]), 4),
        "score": round(float(audit.pair_scores[position, label]), 4),
        "labels": "|".join(_names(audit, audit.rows.label_ids[position])),
        "text": texts[row],
    }


def _kind(audit: Audit, position: int, label: int) -> str:
    return "doubtful" if audit.rows.label_ids[position, label] else "missing"


def _task(audit: Audit, position: int, texts: Mapping[int, str]) -> dict[str, Any]:
    """Return a Label Studio task with the most probable labels as its prediction."""
    row, label_ids = int(audit.rows.row_of[position]), audit.rows.label_ids[position]
    if audit.rows.is_multi_label:
        labelled = ", ".join(_names(audit, label_ids))
        likely = _names(audit, audit.probabilities[position] > 0.5)
        score = float(audit.pair_scores[position].max())
    else:
        labelled, likely = audit.names[int(label_ids)], [audit.names[int(audit.likely[position])]]
        score = float(audit.probabilities[position, int(audit.likely[position])])
    choice = {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": likely}}
    prediction = {"model_version": "leantune audit", "score": round(score, 4), "result": [choice]}
    data = {"text": texts[row], "row": row, "label": labelled, "likely": ", ".join(likely)}
    return {"data": data, "predictions": [prediction]}


def _names(audit: Audit, has_each: Any) -> list[str]:
    return [name for name, has in zip(audit.names, has_each, strict=True) if has]


def _write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write a CSV file of rows with the same columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["row"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _labelling(audit: Audit) -> str:
    """Return the labelling configuration of the tasks."""
    choice = "multiple" if audit.rows.is_multi_label else "single"
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in audit.names)
    return (
        '<View>\n  <Text name="text" value="$text"/>\n  <Header value="labelled: $label, likely: $likely"/>\n'
        f'  <Choices name="label" toName="text" choice="{choice}">\n{choices}  </Choices>\n</View>\n'
    )
