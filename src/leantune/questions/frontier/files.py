"""The folder of a frontier: record, page, and the recipe of the smallest classifier that is good enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from leantune._version import __version__
from leantune.config import Recipe
from leantune.config.frontier_file import FrontierRecord, write_frontier
from leantune.questions.frontier.compute import Frontier
from leantune.report import frontier as frontier_section
from leantune.report import write_model_card, write_report
from leantune.report.page import templates
from leantune.system.atomic import atomic_folder, write_text
from leantune.training.run import run_training

PAGE, RECIPE, RUN = "frontier.html", "recipe.yaml", "run"
"""File names of the page, of the smallest classifier's recipe and of its run folder."""


def smallest_in(folder: Path, found: Frontier, recipe: Recipe) -> Recipe:
    """Return the recipe of the smallest classifier that is good enough, with the test rows of ``recipe``."""
    smallest = found.smallest.recipe
    assert smallest is not None
    return replace(smallest, test=recipe.test, output=str(folder / RUN))


def write_folder(folder: Path, record: FrontierRecord, smallest: Recipe, recipe: Recipe) -> None:
    """Write the folder, which must not exist."""
    name = f"{Path(recipe.model).name} on {'/'.join(Path(recipe.data).parts[-2:])}"
    with atomic_folder(folder) as temporary:
        write_frontier(temporary, record)
        about = {
            "name": name,
            "version": __version__,
            "run": {"frontier": record},
            "frontier": frontier_section,
        }
        write_text(temporary / PAGE, templates().get_template(PAGE).render(about))
        write_text(temporary / RECIPE, smallest.to_yaml())


def train_smallest(smallest: Recipe, record: FrontierRecord, progress: Any) -> Path:
    """Train the smallest classifier, and include the frontier in its report.

    Returns:
        The run folder.
    """
    run = run_training(smallest, console=progress)
    write_frontier(run, record)
    write_model_card(run)
    write_report(run)
    return run
