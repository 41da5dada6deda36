"""``leantune audit``: the labels that are probably wrong, the most suspect first."""

from __future__ import annotations

import argparse
from dataclasses import replace

from leantune.cli.options import new_folder, progress_console
from leantune.cli.recipe import add_recipe, recipe_from
from leantune.cli.values import at_least
from leantune.errors import UsageError
from leantune.system.memory import use_huge_pages

HELP = "find labels that are probably wrong"
EXAMPLES = """
    leantune audit --data train.csv --model asset:minilm --max-trainable-params 100k --output audit
    leantune audit --data train.csv --model ./minilm --loss robust --folds 3 --output audit
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_recipe(parser)
    parser.add_argument(
        "--folds",
        metavar="N",
        type=at_least(2),
        default=5,
        help="classifiers to train, each on the rows of all other folds [5]",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if the output exists, or the recipe names rows that an audit does not use.
        LeantuneError: as `leantune.questions.audit.compute.audit`.
    """
    use_huge_pages()
    recipe, progress = recipe_from(options), progress_console(options)
    folder = new_folder(recipe.output)
    if recipe.validation or recipe.unlabelled:
        raise UsageError("validation and unlabelled: an audit uses only the rows of data; leave them out")
    from leantune.questions.audit.compute import audit
    from leantune.questions.audit.files import write_audit
    from leantune.questions.audit.show import print_audit

    found = audit(
        replace(recipe, test=None),
        folds=options.folds,
        console=progress,
        on_fold=lambda fold: progress.print(f"fold {fold + 1} of {options.folds} is classified"),
    )
    write_audit(folder, found)
    print_audit(found, folder)
