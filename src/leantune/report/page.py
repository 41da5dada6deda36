"""The run as one page: RUN/report.html, readable without a network, a script or a mouse."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from leantune.report import (
    adaptation,
    advice,
    confidence,
    frontier,
    lengths,
    provenance,
    results,
    rows,
    wording,
)
from leantune.report.charts import tick_text
from leantune.report.run_folder import Run, load_run
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of

FILTERS = (
    wording.code,
    wording.count,
    wording.duration,
    wording.markdown,
    wording.percent,
    wording.percent_range,
    wording.plain,
    wording.quoted,
    wording.rate_with_interval,
    wording.significant,
    wording.words,
    tick_text,
)

PARTS = {
    "adaptation": adaptation,
    "advice": advice,
    "confidence": confidence,
    "frontier": frontier,
    "lengths": lengths,
    "provenance": provenance,
    "results": results,
    "rows": rows,
}
"""What the templates ask, by name."""

SECTIONS = {
    "classes": "Classes",
    "wrong": "Wrong predictions",
    "suspects": "Labels to check",
    "confidence": "Confidence",
    "equal": "Equal texts, several labels",
    "lengths": "Lengths of texts",
    "data": "Data",
    "unlabelled": "Rows without labels",
    "candidates": "What was tried first",
    "frontier": "How small it can be",
    "curves": "Training",
    "checkpoints": "Checkpoints",
    "ranks": "Ranks",
    "parameters": "Parameter ledger",
    "artefacts": "Artefacts",
    "provenance": "How to repeat it",
}
"""Anchor (and template) and title, in the order of the page; one without content is left out."""


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from RUN/record.json, RUN/history.jsonl and RUN/rows_to_check.jsonl.

    What the run has not recorded (yet) is left out; everything else of the page is there.

    Args:
        run_dir: the folder of a finished, running or interrupted run.

    Returns:
        The page's path.

    Raises:
        UsageError: the folder holds no record.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, "report.html")
    write_text(path, render(load_run(run_dir)))
    return path


def render(run: Run) -> str:
    """The page as text."""
    about = {"run": run, "record": run.record, "name": run_name(run)} | PARTS
    return templates().get_template("page.html").render(about | {"sections": _sections(about)})


def _sections(about: dict[str, Any]) -> dict[str, tuple[str, Markup]]:
    """Anchor -> title and content of each section that has any; the templates have escaped what they wrote."""
    found = {
        anchor: (title, Markup(templates().get_template(f"sections/{anchor}.html").render(about)))
        for anchor, title in SECTIONS.items()
    }
    return {anchor: (title, body) for anchor, (title, body) in found.items() if body.strip()}


@lru_cache(maxsize=1)
def templates() -> Environment:
    """The files in ``templates/``: text of a run is escaped in HTML and inert everywhere, a name that is not there an
    error.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=select_autoescape(("html", "svg")),
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {each.__name__: each for each in FILTERS}
    return environment


def _inert(value: object) -> object:
    """Whatever a template is about to write; what is markup already was made of such values."""
    return wording.inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def run_name(run: Run) -> str:
    """What was trained on what, as far as the record says: ``minilm on reuters-r8/train.csv``."""
    model, data = run.record.model, run.record.data
    if model and data:
        return f"{wording.path_end(model.source, 1)} on {wording.path_end(data.train.source, 2)}"
    return run.record.run_id or "run"
