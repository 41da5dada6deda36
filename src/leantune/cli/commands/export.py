"""``leantune export``: a run in another standard form."""

from __future__ import annotations

import argparse
from pathlib import Path

from leantune.cli.options import add_run, add_trust, progress_console, trusts
from leantune.cli.values import path
from leantune.errors import UsageError

HELP = "write a run in another standard format"
EXAMPLES = """
    leantune export runs/mine --format lora --output lora-adapter
    leantune export runs/mine --format openvino-int8
"""
FORMATS = ("adalora", "lora", "merged", "openvino", "openvino-int8", "onnx", "onnx-int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    add_run(parser)
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        type=path,
        help="folder to write; default: RUN/export-FORMAT, RUN/onnx, RUN/openvino",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export in RUN")
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="labelled rows on which to calibrate and measure openvino-int8; default: those of the run",
    )
    add_trust(parser)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    from leantune.inference.export.formats import export, export_int8
    from leantune.training.after.calibration_data import calibration_data

    folder = Path(options.run_folder)
    settings = {"overwrite": options.overwrite, "trust_remote_code": trusts(options)}
    if options.format != "openvino-int8":
        if options.data:
            raise UsageError("--data is for --format openvino-int8; the other formats need no rows")
        print(export(folder, options.format, options.output, **settings))
        return
    with progress_console(options).status("quantising"):
        exported, cost = export_int8(
            folder,
            options.output,
            lambda: calibration_data(folder, options.data, trust_remote_code=trusts(options)),
            **settings,
        )
    print(exported)
    print(cost)
