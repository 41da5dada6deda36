"""``leantune report``: the page of a run, written again, or a comparison of several runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from leantune.cli.options import add_columns, progress_console, refuse_first
from leantune.cli.values import path

HELP = "write report.html of a run again, or compare several runs"
EXAMPLES = """
    leantune report runs/mine
    leantune report runs/mine runs/other
    leantune report runs/mine runs/other --data labelled.csv --output comparison.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=path, help="a run folder, or several to compare"
    )
    group = parser.add_argument_group("comparison")
    group.add_argument(
        "--data",
        metavar="DATA",
        help="labelled rows to compare on; default: the test rows, else the validation rows of all runs",
    )
    group.add_argument("--output", metavar="FILE", type=path, help="page to write, such as comparison.html")
    add_columns(parser, label=True)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: as `leantune.questions.compare.compute.compare_runs`, or for an option of a comparison with one run.
        DataError: for rows that are not what they must be.
        CheckpointError: if a run is damaged.
    """
    if len(options.runs) == 1:
        _write_again(options)
        return
    from leantune.questions.compare.compute import compare_runs
    from leantune.questions.compare.page import write_comparison
    from leantune.questions.compare.show import print_comparison
    from leantune.training.history import preparing

    progress = progress_console(options)
    folders = [Path(run) for run in options.runs]
    with preparing(progress, "classifying"):
        found = compare_runs(
            folders,
            options.data,
            text_column=options.text_column,
            text_pair_column=options.text_pair_column,
            label_column=options.label_column,
            skip_blank_rows=options.skip_blank_rows,
        )
    print_comparison(found)
    if options.output:
        write_comparison(Path(options.output), found)
        print(f"open it: {options.output}")


def _write_again(options: argparse.Namespace) -> None:
    given = {f"--{name}": getattr(options, name) for name in ("data", "output")}
    refuse_first(given, "is for the comparison of two runs or more")
    from leantune.report import write_report

    print(write_report(Path(options.runs[0])))
