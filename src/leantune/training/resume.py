"""Going on with a run: is it the same one, and where does it stand."""

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
    """Refuse to look in vain, here and on the hub, for what is relative to where the run was begun.

    Raises:
        UsageError: naming that directory.
    """
    begun_in = record.directory  # early runs lack it
    if begun_in is None:
        return
    for key in ("model", "data", "validation", "test", "unlabelled"):
        location = getattr(recipe, key)
        if location and not Path(location).exists() and (Path(begun_in) / location).exists():
            raise UsageError(
                f"{key}={location}: relative to {begun_in}, where the run was begun; resume it from there"
            )


DECIDED = ("problem_type", "metric", "truncation_side", "method", "targets", "epochs", "learning_rate")
"""Keys that a recipe may leave to the run."""


def as_begun(recipe: Recipe, record: BegunRecord) -> Recipe:
    """The recipe with what the run decided where it leaves that open."""
    began_with = recipe_of_run(Path(recipe.output), record.recipe)
    return replace(
        recipe, **{key: getattr(began_with, key) for key in DECIDED if getattr(recipe, key) is None}
    )


def recipe_differences(recipe: Recipe, record: BegunRecord) -> list[str]:
    """What a recipe says otherwise than the run of ``record`` began with; what it leaves open is no difference."""
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
    """Refuse to go on with another recipe, other data, labels or ranks than the run began with.

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
    """Refuse to go on with other pretrained weights or another type of numbers.

    Args:
        before: what the run began with.
        recipe: of the run.
        sha256: of the weights that are there now.
        precision: that ``recipe.precision`` means on this machine.

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
    """One line if machine, kernels, instructions or torch are not those that the run began with, else none."""
    then, now = to_json(record.hardware) | record.versions, to_json(hardware) | versions
    changes = [
        f"{key}: was {then[key]}, is {now[key]}"
        for key in ("device", "cpu", "gpu", "cores", "kernels", "onednn_max_cpu_isa", "torch")
        if key in then and then[key] != now[key]
    ]
    if changes:
        yield f"warning: the run goes on, but not to the bits that it would have had: {'; '.join(changes)}"


def newest_valid_checkpoint(run: Path, console: Console) -> tuple[int, Checkpoint] | None:
    """The valid checkpoint with the highest step; every newer invalid one is named with its reason."""
    if distributed.is_main():
        for folder in (run, checkpoints_folder(run)):
            for name in remove_leftovers(folder):
                console.print(f"removed {name}, left by an interrupted save")
    distributed.barrier()
    newest_first = sorted(list_checkpoints(run), reverse=True)
    return next(valid_checkpoints(run, newest_first, console.print), None)
