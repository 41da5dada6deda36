"""``leantune train``: train a classifier, on this machine, under torchrun, or on the nodes of a Ray cluster."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from leantune.cli.options import add_fields, progress_console, values_of
from leantune.cli.recipe import add_recipe, keys_from_flags, recipe_from
from leantune.cluster.nodes.settings import Workers
from leantune.config import Recipe, load_recipe
from leantune.config.option import options_of
from leantune.errors import CheckpointError, UsageError
from leantune.system.file_names import entry_of
from leantune.system.memory import use_huge_pages
from leantune.system.openmp import has_int8_products, spin_briefly

HELP = "train a classifier"
EXAMPLES = """
    leantune train quickstart
    leantune train --data train.csv --model asset:minilm --max-trainable-params 100k
    leantune train --data reviews.csv --text-column review --label-column stars --model ./minilm
    leantune train agnews-roberta data=train.csv model=./roberta-base learning_rate=5e-4
    leantune train --resume runs/mine
"""


def add_arguments(parser: Any) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    folder = parser.add_argument_group("run folder")
    folder.add_argument(
        "--overwrite", action="store_true", help="replace an earlier run in the output folder"
    )
    folder.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const="",
        help="continue an interrupted run bit for bit: RUN, or without it the one in the output folder",
    )
    add_fields(parser, Workers, group="Ray cluster", optional=True, is_shown=parser.shows_all)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    use_huge_pages()
    _check_cluster(options)
    recipe = _recipe(options)
    if options.cluster:
        _train_on_cluster(options, recipe)
        return
    if recipe.precision in ("auto", "int8") and has_int8_products():
        spin_briefly()  # before torch is imported
    from leantune.cli.output import print_result
    from leantune.report import write_model_card, write_report
    from leantune.system.distributed import barrier, is_main, process_group
    from leantune.training.run import run_training

    with process_group():
        folder = run_training(
            recipe,
            console=progress_console(options),
            overwrite=options.overwrite,
            resume=options.resume is not None,
        )
        if is_main():
            write_model_card(folder)
            write_report(folder)
            print_result(folder)
        barrier()


def _recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe of the command line, or of the run to resume."""
    if not options.resume:
        return recipe_from(options)
    if options.recipe or options.overrides or options.overwrite or keys_from_flags(options):
        raise UsageError("--resume continues with the recipe of the run; remove the other recipe options")
    folder = Path(options.resume).expanduser()
    path = str(entry_of(folder, "recipe.yaml"))
    if not os.path.isfile(path):
        from leantune.config.record.run import RECORD

        if not (folder / RECORD).is_file():
            raise UsageError(f"{options.resume}: no run to resume (no {RECORD})")
        raise CheckpointError(f"{options.resume}: no recipe.yaml in it; restore the file that the run wrote")
    return load_recipe(path, {"output": str(folder)})


def _check_cluster(options: argparse.Namespace) -> None:
    """Refuse flags of a cluster without one, and a cluster without its number of workers.

    Raises:
        UsageError: naming the flag.
    """
    given = [name for name in options_of(Workers) if getattr(options, name) is not None]
    if given and not options.cluster:
        flag = f"--{given[0].replace('_', '-')}"
        raise UsageError(f"{flag} needs a cluster: add --cluster auto, an address, or --cluster local")
    if options.cluster and options.num_workers is None:
        raise UsageError(f"--cluster {options.cluster}: give the number of workers: --num-workers N")


def _train_on_cluster(options: argparse.Namespace, recipe: Recipe) -> None:
    from leantune.cli.output import print_result
    from leantune.cluster.nodes.run import train_on_cluster

    # Ray prints on standard output that a worker died, where only the result belongs
    with redirect_stdout(sys.stderr):
        folder = train_on_cluster(
            recipe,
            Workers(**values_of(options, Workers)),
            console=progress_console(options),
            overwrite=options.overwrite,
            resume=options.resume is not None,
        )
    print_result(folder)
