"""Printing of a learning curve, and its JSON form."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.table import Table

from leantune.questions.learning_curve.compute import LearningCurve
from leantune.system.console import console
from leantune.training.before.dataset import ENOUGH_HELD_OUT, few_held_out

TIMES = (2, 4, 10)
"""Multiples of the available rows for which accuracy is forecast."""


def _forecasts(found: LearningCurve) -> list[Any]:
    return [found.forecast(times * found.points[-1].rows) for times in TIMES]


def as_json(found: LearningCurve, target: float | None) -> dict[str, Any]:
    """Return the result as JSON for ``--json``."""
    said: dict[str, Any] = {
        "points": [asdict(point) for point in found.points],
        "curve": asdict(found.fitted),
        "forecast": [asdict(each) for each in _forecasts(found)],
    }
    if target is not None:
        rows = [None if math.isinf(each) else round(each) for each in found.rows_until(target)]
        said["rows_until"] = {"accuracy": target, "rows": rows[0], "low": rows[1], "high": rows[2]}
    return said


def print_curve(found: LearningCurve, target: float | None) -> None:
    """Print measured and forecast accuracies, and the number of rows that reaches the target."""
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
    if found.points[-1].held_out < ENOUGH_HELD_OUT:
        terminal.print(few_held_out(found.points[-1].held_out), soft_wrap=True)
    best = max(found.points, key=lambda point: point.accuracy)
    if _forecasts(found)[0].accuracy < best.accuracy:
        terminal.print(
            f"The forecast begins below the {100 * best.accuracy:.1f} % that were measured with {best.rows:,} rows: "
            "the curve passes between the measurements, which differ from it by chance.",
            soft_wrap=True,
        )
    terminal.print("The forecast is a fitted power law and holds only for similar rows.")


def _rows(number: float) -> str:
    return "out of reach" if math.isinf(number) or number > 1e9 else f"{float(f'{number:.2g}'):,.0f}"
