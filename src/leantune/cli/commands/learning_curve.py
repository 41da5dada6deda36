"""``leantune learning-curve``: accuracy against the number of labelled rows, and what more of them would give."""

from __future__ import annotations

import argparse
import json

from leantune.cli.options import progress_console, share_from
from leantune.cli.recipe import add_recipe, recipe_from
from leantune.system.memory import use_huge_pages

HELP = "forecast what more labelled rows would give"
EXAMPLES = """
    leantune learning-curve --data train.csv --model asset:minilm --max-trainable-params 100k
    leantune learning-curve --data train.csv --validation more.csv --model ./minilm --target 95%
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    parser.add_argument(
        "--target", metavar="ACCURACY", help="also print how many rows reach this accuracy, such as 95%%"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if the target is no accuracy.
        LeantuneError: as `leantune.questions.learning_curve.compute.learning_curve`.
    """
    use_huge_pages()
    recipe, progress = recipe_from(options), progress_console(options)
    target = None if options.target is None else share_from(options, "target")
    from leantune.questions.learning_curve.compute import learning_curve
    from leantune.questions.learning_curve.show import as_json, print_curve

    found = learning_curve(
        recipe,
        console=progress,
        on_point=lambda point: progress.print(f"{point.rows:,} rows: accuracy {100 * point.accuracy:.1f} %"),
    )
    if options.json:
        print(json.dumps(as_json(found, target)))
    else:
        print_curve(found, target)
