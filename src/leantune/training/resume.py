"""Resuming a run: check that it is the same run, and find where it stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from leantune.adalora.budget import ParameterPlan
from leantune.config import Recipe, recipe_of_run
from leantune.config.record.run import BegunRecord, DataRecord, Hardware, ModelRecord, to_json
from leantune.data.labels import LabelMap
from leantune.errors import CheckpointError, UsageError
from leantune.system import distributed
from leantune.system.atomic import remove_leftovers
from leantune.training.checkpoint import Checkpoint, checkpoints_folder, list_checkpoints, valid_checkpoints


def check_directory(record: BegunRecord, recipe: Recipe) -> None:
    """Refuse relative paths that exist only relative to the directory in which the run began.

    Raises:
        UsageError: naming that directory.
    """
    begun_in = record.directory  # records of early versions lack it
    if begun_in is None:
        return
    for key in ("model", "data", "validation", "test", "unlabelled"):
        location = getattr(recipe, key)
        if location and not Path(location).exists() and (Path(begun_in) / location).exists():
            raise UsageError(
                f"{key}={location}: exists in {begun_in}, where the run began; resume it from there"
            )


DECIDED = ("problem_type", "metric", "truncation_side", "method", "targets", "epochs", "learning_rate")
"""Keys that a recipe may leave for the run to decide."""


def as_begun(recipe: Recipe, record: BegunRecord) -> Recipe:
    """Fill in what the recipe leaves open with what the run decided."""
    began_with = recipe_of_run(Path(recipe.output), record.recipe)
    return replace(
        recipe, **{key: getattr(began_with, key) for key in DECIDED if getattr(recipe, key) is None}
    )


def recipe_differences(recipe: Recipe, record: BegunRecord) -> list[str]:
    """List where a recipe differs from the one that the run began with; keys left open do not count."""
    began_with = recipe_of_run(Path(recipe.output), record.recipe).by_key()
    return [
        f"{key}: was {began_with[key]}, is {value}"
        for key, value in as_begun(recipe, record).by_key().items()
        if key != "output" and began_with[key] != value  # a run folder may have been moved
    ]


def check_same_run(
    record: BegunRecord,
    *,
    recipe: Recipe,
    data: DataRecord,
    labels: LabelMap,
    plan: ParameterPlan,
) -> None:
    """Refuse to resume with a recipe, data, labels or ranks that differ from the run's.

    Raises:
        CheckpointError: naming every difference.
    """
    differences = []
    for part in ("train", "validation", "test"):
        for key in ("sha256", "rows", "tokens"):
            before, now = (getattr(getattr(each, part), key, None) for each in (record.data, data))
            if before != now:
                differences.append(f"{part} {key}: was {before}, is {now}")
    if record.labels.sha256 != labels.sha256:
        differences.append(f"labels: were {record.labels.names}, are {list(labels.names)}")
    for key, value in (("initial", plan.initial), ("head", plan.head)):
        if (planned := getattr(record.parameters, key)) != value:
            differences.append(f"{key} parameters: were {planned}, are {value}")
    differences += recipe_differences(recipe, record)
    if differences:
        raise CheckpointError(
            f"cannot resume: settings differ from those of the run: {'; '.join(differences)}"
        )


def check_same_model(before: ModelRecord, recipe: Recipe, *, sha256: str, precision: str) -> None:
    """Refuse to resume with other pretrained weights or another precision.

    Args:
        before: the model that the run began with.
        recipe: the run's recipe.
        sha256: checksum of the present weights.
        precision: ``recipe.precision`` resolved for this machine.

    Raises:
        CheckpointError: naming what changed.
    """
    if before.sha256 != sha256:
        raise CheckpointError(
            f"cannot resume: the weights of {recipe.model} have changed (SHA-256 was {str(before.sha256)[:12]}…, "
            f"is {sha256[:12]}…); restore the original ones, or start again with --overwrite"
        )
    if before.precision != precision:
        raise CheckpointError(
            f"cannot resume: the run computes in {before.precision}, but precision={recipe.precision} is "
            f"{precision} on this machine; resume it on a machine like the first one, or start again with --overwrite"
        )


def machine_lines(record: BegunRecord, *, hardware: Hardware, versions: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning if the machine, kernels, instruction set or torch differ from those at the start of the run."""
    then, now = to_json(record.hardware) | record.versions, to_json(hardware) | versions
    changes = [
        f"{key}: was {then[key]}, is {now[key]}"
        for key in ("device", "cpu", "gpu", "cores", "kernels", "onednn_max_cpu_isa", "torch")
        if key in then and then[key] != now[key]
    ]
    if changes:
        yield f"warning: results will not be bit-identical to an uninterrupted run: {'; '.join(changes)}"


def newest_valid_checkpoint(run: Path, console: Console) -> tuple[int, Checkpoint] | None:
    """The valid checkpoint with the highest step; reports why each newer one is invalid."""
    if distributed.is_main():
        for folder in (run, checkpoints_folder(run)):
            for name in remove_leftovers(folder):
                console.print(f"removed {name}, left by an interrupted save")
    distributed.barrier()
    newest_first = sorted(list_checkpoints(run), reverse=True)
    return next(valid_checkpoints(run, newest_first, console.print), None)
