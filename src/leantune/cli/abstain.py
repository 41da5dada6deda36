"""``leantune abstain``: choose from which probability on a classifier answers, and say so in its folders."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.cli.values import share_of
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.config.abstention_file import Abstention, Threshold

CONFIDENCE = "95%"


def add_arguments(parser: Any) -> None:
    """The arguments of the command."""
    parser.add_argument("run_folder", metavar="RUN", help="a run")
    parser.add_argument(
        "--precision", required=True, metavar="SHARE", help="wanted share of right answers, as 95%%"
    )
    parser.add_argument(
        "--confidence",
        metavar="SHARE",
        default=CONFIDENCE,
        help="with which a threshold keeps the precision [95%%]",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="labelled rows that were not trained on; default: validation rows of the run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def abstain(options: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        UsageError: if ``RUN`` is no run, or a share is none.
        DataError: if there are too few rows.
        LeantuneError: as `leantune.inference.load.load`.
    """
    precision = share_of(options.precision, "--precision")
    confidence = share_of(options.confidence, "--confidence")
    from leantune.config.abstention_file import write_abstention
    from leantune.data.label_sets import require_one_label
    from leantune.inference.load import artefact_of, load, require_run
    from leantune.questions.abstain.compute import choose_abstention
    from leantune.training.after.calibration_data import rows_to_measure

    run = Path(options.run_folder).expanduser()
    require_run(run)
    with console(stderr=True, quiet=options.quiet).status("classifying"):
        rows, name = rows_to_measure(run, options.data)
        trained = load(run)
        require_one_label(trained.labels.is_multi_label, "leantune abstain")
        probabilities = trained.probabilities(rows.encoded(), trained.settings.batch_size, start=0)
    chosen = choose_abstention(
        probabilities,
        rows.label_ids,
        trained.classes,
        precision=precision,
        confidence=confidence,
        source=name,
    )
    for part in ("adapter", "merged"):
        write_abstention(artefact_of(run, part), chosen)
    if options.json:
        print(json.dumps(asdict(chosen), ensure_ascii=False))
    else:
        _print(chosen, trained.classes)


def _print(chosen: Abstention, classes: tuple[str, ...]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("predicted class", "least probability", "answered", "right of them", "rows"):
        table.add_column(name, justify="left" if name == "predicted class" else "right")
    table.add_row("any", *_cells(chosen.overall))
    for name in classes:
        table.add_row(name, *_cells(chosen.per_class.get(name)))
    terminal = console()
    terminal.print(table)
    terminal.print(
        f"Each threshold keeps a precision of {100 * chosen.precision:g} % with a probability of "
        f"{100 * chosen.confidence:g} %, for rows that are like those of {chosen.source}. Temperature "
        f"{chosen.temperature:.2f}.",
        soft_wrap=True,
    )


def _cells(threshold: Threshold | None) -> list[str]:
    if threshold is None:
        return ["", "never", "", ""]
    return [
        f"{threshold.least:.4f}",
        f"{100 * threshold.coverage:.1f} %",
        f"{100 * threshold.precision:.1f} %",
        f"{threshold.rows:,}",
    ]
