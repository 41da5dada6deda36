"""Parts of the report in the cell of a notebook."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from leantune.errors import UsageError
from leantune.report import results
from leantune.report.page import run_name, templates, write_report
from leantune.report.run_folder import load_run
from leantune.system.file_names import entry_of

REPORT_HEIGHT = 720
CONFUSION = """{% from "macros.html" import heat_table, table %}{% include "head.html" %}
body { padding: 12px; }
</style></head><body>
{{ heat_table(matrix) if matrix }}
{{ table(confusions) if confusions }}
</body></html>
"""


@dataclass(frozen=True, slots=True)
class Inline:
    """A page that a notebook shows in a frame, so that its styles stay inside."""

    path: Path
    """The report that it is, or is a part of."""
    html: str = field(repr=False)
    height: int = field(repr=False)

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:0"
        return f'<iframe srcdoc="{escape(self.html)}" sandbox="" style="{style}"></iframe>'


def inline_report(run_dir: Path) -> Inline:
    """Return the report of a run; it is written if the folder has none.

    Raises:
        UsageError: the folder contains no run.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, "report.html")
    if not path.is_file():
        write_report(run_dir)
    return Inline(path, path.read_text("utf-8"), REPORT_HEIGHT)


def inline_confusion(run_dir: Path) -> Inline:
    """Return the confusion matrix of a run; with very many classes, its most frequent confusions.

    Raises:
        UsageError: the folder contains no run, no rows were measured, or a text may have several labels.
        CheckpointError: the record or the history is damaged.
    """
    run = load_run(run_dir)
    final = results.final_metrics(run)
    if final is None:
        raise UsageError(f"{run_dir}: no confusion matrix: the run measured no validation and no test rows")
    if results.has_several(final[1]):
        raise UsageError(f"{run_dir}: no confusion matrix: a text may have several labels")
    matrix = results.confusion_matrix(*final)
    # the cells of a compact matrix show neither their classes nor their values
    confusions = results.confusions(*final) if matrix is None or matrix.is_compact else None
    html = templates().from_string(CONFUSION).render(name=run_name(run), matrix=matrix, confusions=confusions)
    height = 24 if confusions is None else 120 + 35 * len(confusions.rows)
    if matrix is not None:
        above = 260 if "tall" in matrix.look and not matrix.is_compact else 110
        height += above + (14 if matrix.is_compact else 35) * len(matrix.rows)
    return Inline(entry_of(run_dir, "report.html"), html, height)
