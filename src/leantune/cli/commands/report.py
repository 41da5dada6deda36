"""``leantune report``: the page of a run, written again."""

from __future__ import annotations

import argparse
from pathlib import Path

from leantune.cli.options import add_run

HELP = "write report.html of a run again"
EXAMPLES = """
    leantune report runs/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser, only=True)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from leantune.report import write_report

    print(write_report(Path(options.run_folder)))
