"""``leantune evaluate``: the metrics of a classifier on labelled rows."""

from __future__ import annotations

import argparse

from leantune.cli.options import (
    add_columns,
    add_computing,
    add_run,
    columns_from,
    engine_from,
    print_notes,
    rows_from,
)

HELP = "measure a classifier on labelled rows"
EXAMPLES = """
    leantune evaluate runs/mine --data test.csv
    leantune evaluate runs/mine/merged --data test.csv --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser)
    parser.add_argument("rows", metavar="DATA", nargs="?", help="labelled rows")
    parser.add_argument("--data", metavar="DATA", help="labelled rows, instead of the position")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_columns(parser, label=True)
    add_computing(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import json

    from leantune.assets.download import resolve_location
    from leantune.cli.output import print_metrics
    from leantune.data.text.read import open_examples
    from leantune.inference.evaluate import measure

    location = resolve_location(rows_from(options, options.data, "--data"))
    trained = engine_from(options)
    columns = columns_from(options, trained.settings)
    source = open_examples(location, columns, labels="required", split="test")
    print_notes(source, options)
    metrics = measure(trained, source, options.batch_size or trained.settings.batch_size)
    if options.json:
        print(json.dumps(metrics.to_json()))
    else:
        print_metrics(metrics)
