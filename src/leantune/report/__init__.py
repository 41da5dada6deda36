"""What a run did, for people: one self-contained page (`page`) and a model card (`model_card`).

`run_folder` reads what the run wrote. `advice`, `results`, `rows`, `confidence`, `lengths`, `adaptation` and
`provenance` make tables and charts of it, `charts` says where what is drawn lies, `wording` writes numbers; markup is
in ``templates/``, a file for each section.
"""

from leantune.report.model_card import write_model_card
from leantune.report.page import write_report

__all__ = ["write_model_card", "write_report"]
