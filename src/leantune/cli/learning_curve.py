"""``leantune learning-curve``: accuracy against the number of labelled rows, and what more of them would give."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from leantune.cli.values import share_of
from leantune.config import Recipe
from leantune.system.console import console

if TYPE_CHECKING:
    from leantune.questions.learning_curve.compute import LearningCurve

TIMES = (2, 4, 10)
"""Rows that the forecast is for, as multiples of those that are there."""


def add_arguments(parser: Any) -> None:
    """The arguments of the command beside the recipe."""
    parser.add_argument("--target", metavar="ACCURACY", help="say how many rows until this accuracy, as 95%%")
    parser.add_argument("--json", action="store_true", help="print JSON")


def learning_curve_command(options: argparse.Namespace, recipe: Recipe, progress: Any) -> None:
    """Run the command.

    Raises:
        UsageError: if the target is no accuracy.
        LeantuneError: as `leantune.questions.learning_curve.compute.learning_curve`.
    """
    target = None if options.target is None else share_of(options.target, "--target")
    from leantune.questions.learning_curve.compute import learning_curve

    found = learning_curve(
        recipe,
        console=progress,
        on_point=lambda point: progress.print(f"{point.rows:,} rows: accuracy {100 * point.accuracy:.1f} %"),
    )
    if options.json:
        print(json.dumps(_as_json(found, target)))
    else:
        _print(found, target)


def _forecasts(found: LearningCurve) -> list[Any]:
    return [found.forecast(times * found.points[-1].rows) for times in TIMES]


def _as_json(found: LearningCurve, target: float | None) -> dict[str, Any]:
    said: dict[str, Any] = {
        "points": [asdict(point) for point in found.points],
        "curve": asdict(found.fitted),
        "forecast": [asdict(each) for each in _forecasts(found)],
    }
    if target is not None:
        rows = [None if math.isinf(each) else round(each) for each in found.rows_until(target)]
        said["rows_until"] = {"accuracy": target, "rows": rows[0], "low": rows[1], "high": rows[2]}
    return said


def _print(found: LearningCurve, target: float | None) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("training rows", "accuracy", "90 % interval"):
        table.add_column(name, justify="right")
    for point in found.points:
        table.add_row(f"{point.rows:,}", f"{100 * point.accuracy:.1f} %", "measured")
    for each in _forecasts(found):
        table.add_row(
            f"{each.rows:,}", f"{100 * each.accuracy:.1f} %", f"{100 * each.low:.1f} to {100 * each.high:.1f}"
        )
    terminal = console()
    terminal.print(table)
    if target is not None:
        rows, low, high = (_rows(each) for each in found.rows_until(target))
        terminal.print(f"{100 * target:g} %: {rows} training rows ({low} to {high})", soft_wrap=True)
    terminal.print("The forecast is a fitted power law; it holds for rows like these.")


def _rows(number: float) -> str:
    return "out of reach" if math.isinf(number) or number > 1e9 else f"{float(f'{number:.2g}'):,.0f}"
