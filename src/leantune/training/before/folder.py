"""The folder of a run: its files, whether it may be overwritten, and clearing it."""

from __future__ import annotations

import os
from pathlib import Path

from leantune.config import Recipe
from leantune.config.frontier_file import FILE as FRONTIER
from leantune.config.record.run import RECORD
from leantune.config.rows_to_check import ROWS_TO_CHECK
from leantune.data.text.sources import files_of
from leantune.errors import UsageError
from leantune.evaluation.nearest import FEATURES
from leantune.inference.export.formats import FOLDERS
from leantune.system.atomic import discard_folder, remove_leftovers
from leantune.system.messages import listed
from leantune.training.signals import resume_command

PASSPORT = "passport.json"
"""The file that ``leantune passport`` writes."""
RUN_FILES = (
    *("recipe.yaml", "history.jsonl", "train.log", "pseudo_labels.csv", ROWS_TO_CHECK),
    *("report.html", "explanations.html", FEATURES, FRONTIER, PASSPORT, "README.md", RECORD),
)
RUN_FOLDERS = ("checkpoints", "adapter", "merged", "tensorboard", "wandb", *FOLDERS.values())


def check_folder(folder: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse a folder that holds another run, or a path that is not a folder.

    Raises:
        UsageError: naming the option that would allow it.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output {folder}: a file is in the way; choose another folder")
    has_run = (folder / RECORD).exists()
    foreign = [] if has_run else [name for name in (*RUN_FILES, *RUN_FOLDERS) if (folder / name).exists()]
    if foreign and not resume:
        raise UsageError(
            f"output {folder}: has {listed(foreign)} and no {RECORD}, so it is not a run folder, although "
            "these names are used in one; choose another output, or move the files away"
        )
    if resume and not has_run:
        raise UsageError(f"{folder}: no run to resume (no record.json)")
    if has_run and not overwrite and not resume:
        raise UsageError(
            f"output {folder}: already holds a run; choose another output, replace it with --overwrite "
            f"(overwrite=True), or continue it with: {resume_command(folder)} (resume=True)"
        )


def check_inputs_stay(folder: Path, recipe: Recipe) -> None:
    """Refuse a recipe whose inputs `clear_run` would remove.

    Raises:
        UsageError: naming the key and the folder.
    """
    removed = [(folder / name).resolve() for name in (*RUN_FILES, *RUN_FOLDERS)]
    for key in ("model", "data", "validation", "test", "unlabelled"):
        location = getattr(recipe, key)
        if location is None:
            continue
        files = files_of(os.path.expanduser(location))  # assets are never in the output folder
        if any(Path(file).resolve().is_relative_to(each) for file in files for each in removed):
            raise UsageError(
                f"{key}={location}: is in output {folder}, where a new run replaces it; "
                "choose another output, or copy it elsewhere first"
            )


def clear_run(folder: Path) -> None:
    """Remove the files of an earlier run and nothing else; the record is removed last."""
    for name in RUN_FOLDERS:
        if (folder / name).is_dir():
            discard_folder(folder / name)
    for name in RUN_FILES:
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir():
        remove_leftovers(folder)
