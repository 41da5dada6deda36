"""Tables of a run's inputs and outputs: rows, labels, artefacts, versions and recipe.

Functions return None or an empty result if the run has not written the data they need.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from leantune.config.record.run import (
    ArtefactsRecord,
    RowsRecord,
    to_json,
)
from leantune.report.run_folder import Run
from leantune.report.tables import Table
from leantune.report.wording import (
    ABSENT,
    count,
    gibibytes,
    percent,
    significant,
    words,
)


def splits(run: Run) -> Table | None:
    """Return a table of rows, tokens and truncation by split."""
    parts = run.record.data.parts() if run.record.data else {}
    if not parts:
        return None
    # Counts that a later version adds to the record appear without a change here.
    numbers = [
        one.name
        for one in fields(RowsRecord)
        if any(isinstance(getattr(rows, one.name), int) for rows in parts.values())
    ]
    return Table(
        caption="Rows and tokens by split",
        headings=["quantity", *parts],
        rows=[
            *([words(key), *(_with_share(rows, key) for rows in parts.values())] for key in numbers),
            [
                "tokens per row",
                *(f"{rows.tokens / rows.rows:.1f}" if rows.rows else ABSENT for rows in parts.values()),
            ],
            ["source", *(rows.source for rows in parts.values())],
        ],
    )


def label_counts(run: Run) -> Table | None:
    """Return a table of rows by class and split."""
    parts = run.record.data.parts() if run.record.data else {}
    counts = {name: rows.label_counts for name, rows in parts.items() if rows.label_counts}
    if not counts:
        return None
    found = dict.fromkeys(label for each in counts.values() for label in each)
    return Table(
        caption="Rows by class and split",
        headings=["class", *counts],
        rows=[
            [label, *(count(each.get(label, 0)) for each in counts.values())]
            for label in (run.record.labels.names if run.record.labels else found)
        ],
    )


def artefacts(record: ArtefactsRecord) -> Table:
    """Return a table of the exported folders and the largest difference of their logits from the trained model's."""
    return Table(
        caption="Compared with the trained model",
        headings=["folder", "largest difference of a logit"],
        rows=[
            ["adapter/", significant(record.adapter.max_logit_difference)],
            ["merged/", significant(record.merged.max_logit_difference)],
        ],
    )


def provenance(run: Run) -> dict[str, dict[str, Any]]:
    """Return lists of facts by title, each as names and values."""
    record = run.record
    hardware = to_json(record.hardware) or {}
    if "memory_bytes" in hardware:
        hardware["memory"] = gibibytes(hardware.pop("memory_bytes"))
    recipe = dict(record.recipe or {})
    advanced = recipe.pop("advanced", None)
    parts = {
        "Model": to_json(record.model),
        "Hardware": hardware,
        "Versions": record.versions,
        "Schedule": to_json(record.schedule),
        "Timings": record.timings,
        "Recipe": recipe,
        "Recipe, advanced": advanced if isinstance(advanced, dict) else None,
    }
    return {title: facts for title, facts in parts.items() if facts}


def _with_share(rows: RowsRecord, key: str) -> str:
    value = getattr(rows, key)
    if key.endswith("_rows") and value and rows.rows:
        return f"{count(value)} ({percent(value / rows.rows)})"
    return count(value)
