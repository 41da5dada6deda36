"""``leantune abstain``: choose the probability below which a classifier does not answer."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from leantune.cli.options import add_run, progress_console, share_from

HELP = "choose the probability below which a classifier does not answer"
EXAMPLES = """
    leantune abstain runs/mine --precision 95%
    leantune abstain runs/mine --precision 99% --data labelled.csv
    leantune predict runs/mine new.csv --output predictions.csv --abstain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser, only=True)
    parser.add_argument(
        "--precision",
        required=True,
        metavar="SHARE",
        help="share of answers that must be right, such as 95%%",
    )
    parser.add_argument(
        "--confidence",
        metavar="SHARE",
        default="95%",
        help="probability that a threshold keeps the precision [95%%]",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="labelled rows that were not trained on; default: validation rows of the run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if ``RUN`` is no run, or a share is invalid.
        DataError: if there are too few rows.
        LeantuneError: as `leantune.inference.load.load`.
    """
    precision, confidence = share_from(options, "precision"), share_from(options, "confidence")
    from leantune.inference.saved import read_saved
    from leantune.questions.abstain.compute import abstain
    from leantune.questions.abstain.show import print_abstention

    folder = Path(options.run_folder)
    with progress_console(options).status("classifying"):
        chosen = abstain(folder, options.data, precision=precision, confidence=confidence)
    if options.json:
        print(json.dumps(asdict(chosen), ensure_ascii=False))
    else:
        print_abstention(chosen, read_saved(folder).labels)
