"""``leantune passport``: every form of a run on the same rows, as a table and as JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from leantune.cli.options import add_columns, add_run, columns_from, print_notes, progress_console
from leantune.errors import UsageError

HELP = "compare every deployed form of a run with what was measured"
EXAMPLES = """
    leantune passport runs/mine test.csv
    leantune passport runs/mine test.csv --url http://127.0.0.1:8000 --max-class-loss 1
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser, only=True)
    parser.add_argument("rows", metavar="DATA", help="labelled rows that were not trained on")
    parser.add_argument("--url", help="also compare a server of the run, such as http://127.0.0.1:8000")
    add_columns(parser, label=True)
    parser.add_argument(
        "--max-class-loss",
        metavar="POINTS",
        type=float,
        default=2.0,
        help="exit with 5 if a form loses more points of accuracy on a class of 20 rows or more [2]",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="JSON file with everything; default: RUN/passport.json"
    )


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if ``RUN`` is no run.
        CheckpointError: naming the form and the class that lost more than the limit.
        LeantuneError: as `leantune.questions.passport.compute.passport`.
    """
    from leantune.assets.download import resolve_location
    from leantune.data.text.read import open_examples
    from leantune.inference.load import require_run
    from leantune.inference.saved import read_saved
    from leantune.questions.passport.compute import check_losses, passport
    from leantune.questions.passport.files import write_passport
    from leantune.questions.passport.show import print_passport

    folder = Path(options.run_folder)
    require_run(folder)
    if not options.max_class_loss >= 0:
        raise UsageError(f"--max-class-loss {options.max_class_loss}: must be points of accuracy from 0 on")
    columns = columns_from(options, read_saved(folder).settings)
    source = open_examples(resolve_location(options.rows), columns, labels="required", split="test")
    print_notes(source, options)
    with progress_console(options).status("classifying in every form"):
        found = passport(folder, source, url=options.url)
    target = write_passport(folder, found, options.output)
    print_passport(found)
    print(target, file=sys.stderr)
    check_losses(found, options.max_class_loss)
