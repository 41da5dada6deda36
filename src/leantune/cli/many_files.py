"""``leantune predict`` of many files into a folder, in processes of this machine or on a Ray cluster."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from leantune.cli.options import progress_console, trusts
from leantune.cli.values import positive
from leantune.errors import UsageError

ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+$")
"""An address of a file elsewhere; a text may hold one, too."""
FORMATS = ("parquet", "csv", "tsv", "jsonl")


def add_arguments(parser: Any) -> None:
    """Add the options for many files."""
    many = parser.add_argument_group("many files", "--output is a folder, such as out/ or s3://bucket/out/")
    many.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="a Ray cluster: auto, HOST:PORT of its head node, or local; default: processes of this machine",
    )
    many.add_argument("--workers", metavar="N", type=positive, help="processes of this machine [1]")
    many.add_argument(
        "--cores-per-worker",
        metavar="N",
        type=positive,
        help="cores for each worker on a cluster; default: all of a node",
    )
    many.add_argument("--format", choices=FORMATS, help="format of the parts [parquet]")
    many.add_argument("--resume", action="store_true", help="compute only the missing parts")
    many.add_argument(
        "--verify",
        action="store_true",
        help="compute nothing; check that the parts hold every row once and in order",
    )


def is_meant(options: argparse.Namespace, rows: str) -> bool:
    """Whether many files are to be classified: the output is a folder, an address is elsewhere, or a flag says so."""
    names = ("cluster", "workers", "cores_per_worker", "format", "resume", "verify")
    is_elsewhere = ADDRESS.match(options.output) or ADDRESS.match(rows)
    return bool(options.output.endswith("/") or any(getattr(options, each) for each in names) or is_elsewhere)


def predict(options: argparse.Namespace, rows: str) -> None:
    """Classify many files.

    Raises:
        LeantuneError: as `leantune.cluster.predict.job.bulk_predict` and `leantune.cluster.predict.verify.verify`.
    """
    _check(options, rows)
    from leantune.cluster.predict.job import BulkOptions, bulk_predict
    from leantune.data.text.columns import Columns

    bulk = BulkOptions(
        input=rows,
        output=options.output,
        columns=Columns(
            text=options.text_column,
            text_pair=options.text_pair_column,
            id=options.id_column,
            skips_blank=options.skip_blank_rows,
        ),
        format=f".{options.format or FORMATS[0]}",
        with_probabilities=options.probabilities,
        submission=options.submission,
        batch_size=options.batch_size,
        precision=options.precision,
        cluster=options.cluster,
        workers=options.workers or 1,
        cores=options.cores_per_worker,
        resume=options.resume,
        abstain=options.abstain,
    )
    run, console = Path(options.run_folder), progress_console(options)
    if options.verify:
        from leantune.cluster.predict.verify import verify

        with console.status("reading inputs and parts"):
            found = verify(run, bulk)
        print(f"{found.parts:,} parts hold the {found.rows:,} rows of {rows}, each once and in order")
        return
    with console.status("classifying") as status:
        summary = bulk_predict(
            run,
            bulk,
            on_part=lambda done, parts: status.update(
                f"classifying: {done.parts:,} of {parts:,} parts, {done.rows:,} rows"
            ),
        )
    if not options.quiet:
        notes = f"{summary.truncated_rows:,} truncated, {summary.empty_rows:,} without text"
        print(
            f"{summary.rows:,} rows in {summary.parts:,} parts to {options.output} ({notes})", file=sys.stderr
        )


def _check(options: argparse.Namespace, rows: str) -> None:
    """Refuse what has no meaning for many files.

    Raises:
        UsageError: naming the flag.
    """
    if options.output == "-" or Path(options.output).suffix in (".csv", ".tsv", ".jsonl", ".parquet"):
        raise UsageError(
            f"output {options.output}: a prediction of many files writes a folder of parts; "
            "give a folder, as --output predictions/, or leave out the flags that are for many files"
        )
    if rows == "-":
        raise UsageError("--input -: standard input is no file; give one, or a pattern, or a folder")
    if options.overwrite:
        raise UsageError("--overwrite: parts are never replaced; give another folder, or --resume to go on")
    if options.engine != "torch":
        raise UsageError(f"--engine {options.engine}: many files are computed by torch; leave it out")
    if trusts(options):
        raise UsageError(
            "--trust-remote-code: not with many files; merge the model into one without code first"
        )
    if options.cluster and options.workers:
        raise UsageError("--workers is for processes of this machine; with --cluster give --cores-per-worker")
    if options.cores_per_worker and not options.cluster:
        raise UsageError("--cores-per-worker is for --cluster; without it, --workers share the cores")
