"""``leantune assets``: real encoders and data sets to try things with."""

from __future__ import annotations

import argparse

from leantune.cli.options import progress_console

HELP = "download a real encoder and real data to try"
EXAMPLES = """
    leantune assets
    leantune assets --path minilm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--path",
        metavar="NAME",
        help="fetch one of minilm, mpnet, reuters-r8, reuters-r52, 20newsgroups and print its folder",
    )


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from leantune.assets.download import DEFAULT_ASSETS, fetch

    names = [options.path] if options.path else DEFAULT_ASSETS
    with progress_console(options).status(f"fetching {', '.join(names)}"):
        paths = fetch(names)
    for name, path in paths.items():
        print(path if options.path else f"{name}\t{path}")
