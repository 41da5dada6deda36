"""Reports about a run: a self-contained HTML page (`page`) and a model card (`model_card`).

`run_folder` reads the run's files. `advice`, `results`, `rows`, `confidence`, `lengths`, `adaptation` and
`provenance` turn them into tables and charts. `charts` computes coordinates and `wording` formats numbers. The markup
is in ``templates/``, with one file per section. `inline` shows the page, or a chart of it, in a notebook.
"""

from leantune.report.model_card import write_model_card
from leantune.report.page import write_report

__all__ = ["write_model_card", "write_report"]
