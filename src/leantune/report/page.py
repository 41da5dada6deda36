"""The run as one page: RUN/report.html, readable without a network, a script or a mouse."""

from __future__ import annotations

from pathlib import Path
from string import Template

from leantune.report.adaptation import parameter_section, rank_section
from leantune.report.curves import curve_section
from leantune.report.markup import Html, join, tag
from leantune.report.provenance import artefact_section, data_section, provenance_section
from leantune.report.run_folder import Run, load_run
from leantune.report.sections import checkpoint_section, class_section, headline
from leantune.report.wording import path_end
from leantune.system.atomic import write_text
from leantune.system.file_names import entry_of

SECTIONS = (
    headline,
    parameter_section,
    curve_section,
    rank_section,
    checkpoint_section,
    class_section,
    data_section,
    artefact_section,
    provenance_section,
)
UNFINISHED = {
    "running": "This run has not finished: the page shows what it has logged so far.",
    "interrupted": "This run was interrupted: the page shows what it had logged by then.",
}


def write_report(run_dir: Path) -> Path:
    """Write RUN/report.html from RUN/record.json and RUN/history.jsonl.

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
    here = Path(__file__).parent / "templates"
    return Template((here / "page.html").read_text(encoding="utf-8")).substitute(
        title=tag("title", f"{_name(run)} · leantune"),
        style=(here / "page.css").read_text(encoding="utf-8"),
        body=join([_header(run), *(make(run) for make in SECTIONS)]),
    )


def _header(run: Run) -> Html:
    record = run.record
    about = [record.get("run_id"), record.get("created"), f"leantune {record.get('leantune', '')}".strip()]
    warning = UNFINISHED.get(record.get("status", ""))
    return tag(
        "header",
        tag("p", "leantune run", class_="kicker"),
        tag("h1", _name(run)),
        tag("p", " · ".join(str(one) for one in about if one), class_="note"),
        tag("p", warning, class_="warning", role="status") if warning else None,
    )


def _name(run: Run) -> str:
    """What was trained on what, as far as the record says: ``minilm on reuters-r8/train.csv``."""
    model = run.part("model").get("source")
    data = (run.part("data").get("train") or {}).get("source")
    if model and data:
        return f"{path_end(model, 1)} on {path_end(data, 2)}"
    return str(run.record.get("run_id") or "run")
