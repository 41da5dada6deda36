"""``leantune frontier``: how small a classifier can be, and the recipe of the smallest that is good enough."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

from leantune.cli.options import new_folder, progress_console
from leantune.cli.recipe import add_recipe, recipe_from
from leantune.system.memory import use_huge_pages

HELP = "find how small a classifier can be"
EXAMPLES = """
    leantune frontier --data train.csv --model asset:minilm --output frontier
    leantune frontier --data train.csv --model ./minilm --max-trainable-params 1M --output frontier --train
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    parser.add_argument("--without-full", action="store_true", help="leave out full fine-tuning")
    parser.add_argument("--train", action="store_true", help="then train the smallest that is good enough")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if the output exists, or the recipe sets what a frontier varies.
        LeantuneError: as `leantune.questions.frontier.compute.frontier`.
    """
    use_huge_pages()
    recipe, progress = recipe_from(options), progress_console(options)
    folder = new_folder(recipe.output)
    from leantune.config.record.run import to_json
    from leantune.questions.frontier.compute import frontier
    from leantune.questions.frontier.files import smallest_in, write_folder
    from leantune.questions.frontier.show import line_of, print_frontier

    found = frontier(
        replace(recipe, test=None),
        console=progress,
        with_full=not options.without_full,
        on_point=lambda point: progress.print(line_of(point), soft_wrap=True),
    )
    smallest = smallest_in(folder, found, recipe)
    record = found.to_record()
    write_folder(folder, record, smallest, recipe)
    if options.json:
        print(json.dumps(to_json(record)))
    else:
        print_frontier(record, folder)
    if options.train:
        from leantune.cli.output import print_result
        from leantune.questions.frontier.files import train_smallest

        trained = train_smallest(smallest, record, progress)
        if not options.json:
            print_result(trained)
