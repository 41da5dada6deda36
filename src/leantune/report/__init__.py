"""What a run did, for people: one self-contained page and a model card."""

from leantune.report.model_card import write_model_card
from leantune.report.page import write_report

__all__ = ["write_model_card", "write_report"]
