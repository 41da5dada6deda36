"""``leantune plan``: the parameter ledger and the schedule of a recipe."""

from __future__ import annotations

import argparse

from leantune.cli.options import progress_console
from leantune.cli.recipe import add_recipe, recipe_from

HELP = "show the parameters and the schedule of a recipe without training"
EXAMPLES = """
    leantune plan --data train.csv --model asset:minilm --max-trainable-params 100k
    leantune plan agnews-roberta-as-published model=./roberta-base
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    recipe = recipe_from(options)
    progress = progress_console(options)
    with progress.status("planning"):  # most of the time goes to imports
        from leantune.cli.output import print_plan
        from leantune.training.before.planning import plan

        planned = plan(recipe)
    for line in planned.notes:
        progress.print(line, markup=False, soft_wrap=True)
    print_plan(planned, as_json=options.json)
