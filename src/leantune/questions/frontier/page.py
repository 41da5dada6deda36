"""A frontier on a page of its own: FOLDER/frontier.html, readable without a network."""

from __future__ import annotations

from pathlib import Path

from leantune._version import __version__
from leantune.config.frontier_file import FrontierRecord
from leantune.report import frontier
from leantune.report.page import templates
from leantune.system.atomic import write_text

PAGE = "frontier.html"


def write_frontier_page(folder: Path, record: FrontierRecord, name: str) -> Path:
    """Write the page, whole or not at all.

    Args:
        folder: where to.
        record: what was measured.
        name: the title of the page.

    Raises:
        ResourceError: if the disk is full or fails.
    """
    path = folder / PAGE
    about = {"name": name, "version": __version__, "run": {"frontier": record}, "frontier": frontier}
    write_text(path, templates().get_template(PAGE).render(about))
    return path
