"""The report RUN/report.html: one page that needs no network, no script and no mouse. A script filters its rows."""

from __future__ import annotations

import base64
import hashlib
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
"""Modules that the templates call, by name."""

SECTIONS = {
    "classes": "Classes",
    "wrong": "Wrong predictions",
    "suspects": "Labels to check",
    "confidence": "Confidence",
    "equal": "Equal texts with several labels",
    "lengths": "Text lengths",
    "data": "Data",
    "unlabelled": "Rows without labels",
    "candidates": "Candidates",
    "frontier": "Accuracy by size",
    "curves": "Training",
    "checkpoints": "Checkpoints",
    "ranks": "Ranks",
    "parameters": "Parameter ledger",
    "artefacts": "Artefacts",
    "provenance": "How to reproduce this run",
}
"""Title of each section by its anchor (and template name), in page order. Sections without content are left out."""

OPEN_SECTIONS = ("classes", "wrong", "suspects")
"""Sections that are unfolded from the beginning."""

FILTER = "filter.js"
"""Template of the page's only script, which filters the rows with texts."""


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from RUN/record.json, RUN/history.jsonl and RUN/rows_to_check.jsonl.

    Sections without recorded data are left out.

    Args:
        run_dir: the folder of a finished, running or interrupted run.

    Returns:
        The page's path.

    Raises:
        UsageError: the folder contains no record.
        CheckpointError: the record or the history is damaged.
    """
    path = entry_of(run_dir, "report.html")
    write_text(path, render(load_run(run_dir)))
    return path


def render(run: Run) -> str:
    """Return the page as HTML."""
    about = {"run": run, "record": run.record, "name": run_name(run)} | PARTS
    about |= {"sections": _sections(about), "open_sections": OPEN_SECTIONS}
    if rows.wrong_predictions(run):
        about["script_hash"] = script_hash(FILTER)
    return templates().get_template("page.html").render(about)


def script_hash(name: str) -> str:
    """Return the hash of a script in ``templates/``, by which a page's Content Security Policy allows it."""
    return base64.b64encode(
        hashlib.sha256(templates().get_template(name).render().encode()).digest()
    ).decode()


def _sections(about: dict[str, Any]) -> dict[str, tuple[str, Markup]]:
    """Return title and content of each section with content, by anchor. The templates have escaped the content."""
    found = {
        anchor: (title, Markup(templates().get_template(f"sections/{anchor}.html").render(about)))
        for anchor, title in SECTIONS.items()
    }
    return {anchor: (title, body) for anchor, (title, body) in found.items() if body.strip()}


@lru_cache(maxsize=1)
def templates() -> Environment:
    """Return the environment of ``templates/``.

    It escapes values in HTML, replaces control characters everywhere, and raises an error for an undefined name.
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
    """Replace the control characters of a string that a template outputs. Markup consists of such values already."""
    return wording.inert(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def run_name(run: Run) -> str:
    """Return encoder and data of the run: ``minilm on reuters-r8/train.csv``; the run's ID if they are not recorded."""
    model, data = run.record.model, run.record.data
    if model and data:
        return f"{wording.path_end(model.source, 1)} on {wording.path_end(data.train.source, 2)}"
    return run.record.run_id or "run"
