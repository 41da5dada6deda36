"""``leantune predict``: classify the rows of a file, one text, or many files."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import sys
from glob import glob
from typing import TYPE_CHECKING

from leantune.cli import many_files
from leantune.cli.options import (
    add_columns,
    add_computing,
    add_run,
    columns_from,
    engine_from,
    print_notes,
    progress_console,
    refuse_first,
    rows_from,
)
from leantune.cli.values import path
from leantune.errors import MissingFileError
from leantune.system.messages import shown

if TYPE_CHECKING:
    from leantune.data.text.read import ExampleSource
    from leantune.inference.text_classifier import TextClassifier

HELP = "classify one text, or the rows of files"
EXAMPLES = """
    leantune predict runs/mine new.csv --output predictions.csv
    leantune predict runs/mine "Oil prices rose again on Monday."
    leantune predict runs/mine --text reviews.csv
    cat new.csv | leantune predict runs/mine -
    leantune predict runs/mine new.csv --output predictions.parquet --probabilities --id-column id
    leantune predict runs/mine 'rows/*.parquet' --output predictions/ --workers 2
    leantune predict runs/mine 's3://bucket/in/*.parquet' --output s3://bucket/out/ --cluster auto --resume
"""
ROWS_SHOWN = 20
"""Number of rows that are printed as a table where standard output is a terminal."""
FILE_NAME = re.compile(r"[/\\]|\.\w{1,10}$|^~")
"""Matches a word that looks like the name of a file: it has a separator or a suffix."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser)
    parser.add_argument(
        "rows",
        metavar="INPUT",
        nargs="?",
        help="rows to classify: a file, - for standard input, or one text in quotes",
    )
    parser.add_argument(
        "--input", metavar="INPUT", help="rows to classify, instead of the position; never a text"
    )
    parser.add_argument("--text", metavar="TEXT", help="one text to classify, whatever it looks like")
    parser.add_argument(
        "--output",
        metavar="FILE",
        default="-",
        type=path,
        help=".csv .tsv .jsonl .parquet; - for standard output; a folder for many files [-; on a terminal, a table "
        "of the first rows]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the output file")
    add_columns(parser, label=False)
    parser.add_argument(
        "--id-column", metavar="NAME", help="column to copy to the output; default: id, the row number from 0"
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("--probabilities", action="store_true", help="add a column p_LABEL for every class")
    layout.add_argument("--submission", action="store_true", help="write ID,label with whole-number labels")
    parser.add_argument(
        "--abstain",
        nargs="?",
        const="overall",
        choices=("overall", "by-class"),
        help="leave the label empty below the threshold that 'leantune abstain' chose",
    )
    add_computing(parser)
    many_files.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    if options.text is not None:
        refuse_first({"a file": options.rows, "--input": options.input}, "and --text: give only one of them")
        _predict_text(options, options.text)
        return
    given = rows_from(options, options.input, "--input")
    if many_files.is_meant(options, given):
        many_files.predict(options, given)
    elif options.input is None and _is_text(given):
        _predict_text(options, given)
    else:
        _predict_file(options, given)


def _predict_file(options: argparse.Namespace, rows: str) -> None:
    from leantune.assets.download import resolve_location
    from leantune.data.text.read import open_examples
    from leantune.data.text.sources import files_of
    from leantune.evaluation.abstention import required_abstention
    from leantune.inference.predict import predict_to
    from leantune.inference.writers import PredictionLayout, check_output, open_writer

    location = resolve_location(rows)
    suffix = check_output(options.output, inputs=files_of(location), overwrite=options.overwrite)
    trained = engine_from(options)
    try:
        source = open_examples(
            location, columns_from(options, trained.settings), labels="ignore", split="test"
        )
    except MissingFileError as error:
        command = f"leantune predict {shlex.quote(options.run_folder)} --text {shlex.quote(rows)}"
        raise MissingFileError(f"{error}; if it is a text: {command}") from error
    print_notes(source, options)
    if _is_for_the_eye(options):
        _show_first(trained, source)
        return
    layout = PredictionLayout(
        trained.labels,
        with_probabilities=options.probabilities,
        submission=options.submission,
        id_column=options.id_column or "id",
        abstention=required_abstention(trained.abstention, trained.source) if options.abstain else None,
        by_class=options.abstain == "by-class",
        thresholds=trained.thresholds,
    )
    with progress_console(options).status("classifying") as status:
        summary = predict_to(
            trained,
            source,
            options.output,
            writer=lambda target: open_writer(layout, target, suffix),
            batch_size=options.batch_size or trained.settings.batch_size,
            on_rows=lambda count: status.update(f"classifying: {count:,} rows"),
        )
    place = "standard output" if options.output == "-" else options.output
    notes = [f"{summary.truncated_rows:,} truncated to {trained.tokenizer.max_length} tokens"]
    if summary.empty_rows:
        notes.append(f"{summary.empty_rows:,} without text")
    if not options.quiet:
        print(f"{summary.rows:,} rows to {place} ({', '.join(notes)})", file=sys.stderr)


def _is_for_the_eye(options: argparse.Namespace) -> bool:
    """Return whether the predictions go to a terminal, and no option asks for the columns of a file."""
    is_plain = not (
        options.probabilities or options.submission or options.abstain or options.id_column or options.quiet
    )
    return is_plain and options.output == "-" and sys.stdout.isatty()


def _show_first(trained: TextClassifier, source: ExampleSource) -> None:
    """Print a table of the first rows, and say how to get all."""
    from leantune.cli.output import print_predictions
    from leantune.inference.predict import predict_rows
    from leantune.inference.writers import PredictionLayout

    batch = next(source.batches(ROWS_SHOWN + 1))
    found, _ = predict_rows(
        trained, batch, trained.settings.batch_size, skips_blank=source.columns.skips_blank
    )
    rows = PredictionLayout(trained.labels, thresholds=trained.thresholds).rows(found)
    print_predictions(batch.texts[:ROWS_SHOWN], rows[:ROWS_SHOWN])
    if len(rows) > ROWS_SHOWN:
        print(
            f"these are the first {ROWS_SHOWN} rows; all of them: add --output predictions.csv",
            file=sys.stderr,
        )


def _is_text(word: str) -> bool:
    """Return whether a word is a text: no file has this name, and it does not look like the name of one."""
    looks_like_a_name = word == "-" or FILE_NAME.search(word)
    return (" " in word.strip() or not looks_like_a_name) and not os.path.lexists(word) and not glob(word)


def _predict_text(options: argparse.Namespace, text: str) -> None:
    from leantune.cli.output import print_probabilities

    for_files = {
        "--output": options.output != "-",
        "--probabilities": options.probabilities,
        "--abstain": options.abstain,
        "--submission": options.submission,
        "--id-column": options.id_column,
    }
    refuse_first(
        for_files,
        f"is for a file of rows, and there is no file {shown(text)}: leave it out to classify the text",
    )
    trained = engine_from(options)
    print_probabilities(trained.predict_proba([text])[0], trained.labels.names, trained.thresholds)
