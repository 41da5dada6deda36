"""``leantune explain``: the nearest training texts of a prediction, and the weight of each word."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from leantune.cli.options import add_run, add_trust, progress_console, refuse_first, trusts
from leantune.cli.values import count
from leantune.errors import UsageError

HELP = "show the training texts and the words behind a prediction"
EXAMPLES = """
    leantune explain runs/mine "Oil prices rose again on Monday."
    leantune explain runs/mine "Oil prices rose again on Monday." --class acq --nearest 5
    leantune explain runs/mine --errors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser, only=True)
    parser.add_argument("text", metavar="TEXT", nargs="?", help="one text in quotes")
    parser.add_argument("--pair", metavar="TEXT", help="second text, for a classifier of pairs")
    parser.add_argument(
        "--nearest",
        metavar="N",
        type=count,
        default=3,
        help="training texts to show; 0: do not read the training rows [3]",
    )
    parser.add_argument(
        "--class", dest="class_name", metavar="NAME", help="class to explain; default: the predicted one"
    )
    parser.add_argument(
        "--no-words", action="store_true", help="leave out the word weights, even if captum is installed"
    )
    parser.add_argument(
        "--errors",
        action="store_true",
        help="explain the wrong predictions in the report and write RUN/explanations.html; takes no text",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_trust(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if flags contradict each other.
        LeantuneError: as `leantune.questions.explain.compute.explain`.
    """
    _check(options)
    folder = Path(options.run_folder)
    from leantune.questions.explain.compute import explain, explain_errors

    with progress_console(options).status("explaining"):
        if options.errors:
            from leantune.questions.explain.page import write_explanations

            errors = explain_errors(folder, count=options.nearest, trust_remote_code=trusts(options))
            page = write_explanations(folder, errors)
        else:
            (found,) = explain(
                folder,
                [options.text],
                None if options.pair is None else [options.pair],
                count=options.nearest,
                with_words=False if options.no_words else True if options.class_name else None,
                class_name=options.class_name,
                trust_remote_code=trusts(options),
            )
    if options.errors:
        print(page)
    elif options.json:
        print(json.dumps(asdict(found), ensure_ascii=False))
    else:
        from leantune.questions.explain.show import print_explanation

        print_explanation(found)


def _check(options: argparse.Namespace) -> None:
    if options.errors == (options.text is not None):
        raise UsageError(
            "explain takes either one text in quotes or --errors, as in: leantune explain RUN 'a text'"
        )
    if options.errors:
        of_a_text = {
            "--pair": options.pair,
            "--class": options.class_name,
            "--no-words": options.no_words,
            "--json": options.json,
        }
        refuse_first(of_a_text, "is for one text, not for --errors; leave it out")
    if options.no_words and options.class_name:
        raise UsageError(
            "--class selects the class of the word weights, and --no-words leaves them out; give only one"
        )
