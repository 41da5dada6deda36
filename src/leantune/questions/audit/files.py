"""The files of an audit: for people, for Label Studio and for cleanlab."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from xml.sax.saxutils import quoteattr

from leantune.system.atomic import atomic_folder

if TYPE_CHECKING:
    from leantune.questions.audit.compute import Audit

SUSPECTS, CONFUSION, TASKS, LABELLING = (
    "suspects.csv",
    "confusion.csv",
    "label_studio.json",
    "label_studio.xml",
)
PROBABILITIES, LABELS, CLASSES = "pred_probs.npy", "labels.npy", "classes.json"


def write_audit(folder: Path, audit: Audit, texts: Mapping[int, str]) -> None:
    """Write all files into a new folder, whole or not at all.

    Args:
        folder: which is not there.
        audit: what was found.
        texts: by the rows of the file, from 0; those of ``audit.suspects`` are needed.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    import numpy as np

    found = [_suspect(audit, int(position), texts) for position in audit.suspects]
    with atomic_folder(folder) as temporary:
        write_table(temporary / SUSPECTS, found)
        confusion = [
            {"label": label, "likely": likely, "rows": rows} for label, likely, rows in audit.confusion()
        ]
        write_table(temporary / CONFUSION, confusion)
        tasks = [_task(each) for each in found]
        (temporary / TASKS).write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", "utf-8")
        (temporary / LABELLING).write_text(labelling(audit.names, choice="single"), "utf-8")
        np.save(temporary / PROBABILITIES, audit.probabilities)
        np.save(temporary / LABELS, audit.rows.label_ids)
        (temporary / CLASSES).write_text(json.dumps(audit.names, ensure_ascii=False) + "\n", "utf-8")


def _suspect(audit: Audit, position: int, texts: Mapping[int, str]) -> dict[str, Any]:
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


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """A CSV of rows with the same columns."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["row"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _task(suspect: Mapping[str, Any]) -> dict[str, Any]:
    """A task of Label Studio with the likely label as its prediction."""
    choice = {
        "from_name": "label",
        "to_name": "text",
        "type": "choices",
        "value": {"choices": [suspect["likely"]]},
    }
    data = {
        "text": suspect["text"],
        "row": suspect["row"],
        "label": suspect["label"],
        "likely": suspect["likely"],
    }
    prediction = {"model_version": "leantune audit", "score": suspect["p_likely"], "result": [choice]}
    return {"data": data, "predictions": [prediction]}


def labelling(names: tuple[str, ...], *, choice: Literal["single", "multiple"]) -> str:
    """The labelling configuration that the tasks belong to."""
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in names)
    return (
        '<View>\n  <Text name="text" value="$text"/>\n  <Header value="labelled: $label, likely: $likely"/>\n'
        f'  <Choices name="label" toName="text" choice="{choice}">\n{choices}  </Choices>\n</View>\n'
    )
