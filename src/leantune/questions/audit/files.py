"""The files of an audit: tables for people, tasks for Label Studio, and arrays for cleanlab.

What is suspect is a row where each has one label, and a pair of a row and a label where a row may have several.
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
"""The position of a row, and a label."""


def write_audit(folder: Path, audit: Audit) -> None:
    """Write all files into a new folder, whole or not at all.

    Args:
        folder: does not exist yet.
        audit: what was found.

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
    """Pairs whose label is more probably wrong than right, the most suspect first."""
    scores = audit.pair_scores
    order = np.argsort(-scores, axis=None, kind="stable")
    return [divmod(int(pair), scores.shape[1]) for pair in order if scores.flat[pair] > 0]


def by_label(audit: Audit, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """How often each label is given and doubtful, or missing and probable, most first."""
    counts: dict[str, dict[str, Any]]
    counts = {name: {"label": name, "doubtful": 0, "missing": 0} for name in audit.names}
    for position, label in pairs:
        counts[audit.names[label]][_kind(audit, position, label)] += 1
    return sorted(counts.values(), key=lambda each: -each["doubtful"] - each["missing"])


def _texts(audit: Audit, positions: Sequence[int]) -> dict[int, str]:
    """The texts of some rows, by their row in the file; both texts of a pair, joined."""
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
    """A task of Label Studio with the likely labels as its prediction."""
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
    """The labelling configuration that the tasks belong to."""
    choice = "multiple" if audit.rows.is_multi_label else "single"
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in audit.names)
    return (
        '<View>\n  <Text name="text" value="$text"/>\n  <Header value="labelled: $label, likely: $likely"/>\n'
        f'  <Choices name="label" toName="text" choice="{choice}">\n{choices}  </Choices>\n</View>\n'
    )
