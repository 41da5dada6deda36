"""``leantune push``: publish a run on the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from leantune.cli.options import add_run, progress_console

HELP = "publish a run on the Hugging Face hub"
EXAMPLES = """
    leantune push runs/mine my-org/my-classifier --private
    leantune push runs/mine my-org/my-classifier --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser, only=True)
    parser.add_argument("repository", metavar="REPOSITORY", help="NAME or ORG/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--example",
        metavar="TEXT",
        action="append",
        default=[],
        help="a text for the page's widget; repeat it",
    )
    parser.add_argument("--dry-run", action="store_true", help="list the files, and publish nothing")


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from leantune.report.push import files_to_push, push

    folder = Path(options.run_folder)
    if options.dry_run:
        for name in ("README.md", *files_to_push(folder)):
            print(name)
        return
    with progress_console(options).status("uploading"):
        address = push(folder, options.repository, private=options.private, examples=options.example)
    print(address)
