"""What a run did, for people: one self-contained page (`page`) and a model card (`model_card`).

`run_folder` reads the record and the history, `sections` makes tables and charts of them, `charts` says where what is
drawn lies, `wording` writes numbers; markup is in ``templates/``.
"""

from leantune.report.model_card import write_model_card
from leantune.report.page import write_report

__all__ = ["write_model_card", "write_report"]
