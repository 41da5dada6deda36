"""The page of a comparison: the runs, the differences by class, and the rows where two runs disagree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leantune._version import __version__
from leantune.evaluation.comparison import Comparison
from leantune.questions.compare.compute import ClassDifference, Disagreement, RunComparison, RunDifference
from leantune.report.page import templates
from leantune.report.rows import MAX_OPEN, NONE, RowList, ShownRow
from leantune.report.tables import Table
from leantune.report.wording import ABSENT, count, duration, percent, percent_range, shortened, significant
from leantune.system.atomic import write_text


def write_comparison(path: Path, found: RunComparison) -> None:
    """Write the page of a comparison, which replaces a file in its place."""
    first = found.runs[0].name
    about = {
        "name": f"{len(found.runs)} runs on {count(found.num_rows)} rows",
        "version": __version__,
        "rows": rows_name(found),
        "runs": runs_table(found),
        "differences": [
            {
                "name": each.name,
                "sentence": sentence(each, first),
                "classes": classes_table(each.classes, first, each.name),
                "lists": [
                    _row_list(each.only_first_right, first, each.comparison.only_a_right),
                    _row_list(each.only_other_right, each.name, each.comparison.only_b_right),
                ],
            }
            for each in found.against_first
        ],
    }
    write_text(path, templates().get_template("comparison.html").render(about))


def rows_name(found: RunComparison) -> str:
    """Name the rows: ``the test rows of all runs``, or a file."""
    if found.rows in ("test", "validation"):
        return f"the {found.rows} rows of all runs"
    return found.rows


def sentence(difference: RunDifference, first: str) -> str:
    """State which run is better on the rows, or that the rows do not tell."""
    comparison = difference.comparison
    better, worse = (difference.name, first) if comparison.difference > 0 else (first, difference.name)
    verdict = (
        f"{better} is more accurate than {worse}"
        if comparison.distinguishable
        else f"{first} and {difference.name} cannot be told apart"
    )
    return (
        f"{verdict}: {_points(comparison, ' points')}, McNemar p = "
        f"{significant(comparison.p_value)}. Only {first} is right in {count(comparison.only_a_right)} rows, only "
        f"{difference.name} in {count(comparison.only_b_right)}."
    )


def runs_table(found: RunComparison) -> Table:
    """Return the runs with their metrics, each against the first."""
    is_multi_label = found.runs[0].metrics.micro_f1 is not None
    against = [None, *(each.comparison for each in found.against_first)]
    rows = []
    for run, comparison in zip(found.runs, against, strict=True):
        metrics = run.metrics
        rows.append(
            (
                run.name,
                percent(metrics.accuracy),
                percent_range((metrics.accuracy_interval.low, metrics.accuracy_interval.high)),
                ABSENT if comparison is None else _points(comparison),
                *([percent(metrics.micro_f1)] if is_multi_label else []),
                percent(metrics.macro_f1),
                significant(metrics.log_loss),
                count(run.trainable),
                duration(run.train_s),
            )
        )
    return Table(
        caption=f"Runs on {count(found.num_rows)} rows",
        headings=(
            "run",
            "all labels right" if is_multi_label else "accuracy",
            "95 % interval",
            "points against the first",
            *(["micro F1"] if is_multi_label else []),
            "macro F1",
            "log loss",
            "trainable parameters",
            "training",
        ),
        rows=rows,
        look="names",
    )


def classes_table(classes: Sequence[ClassDifference], first: str, other: str) -> Table:
    """Return the classes, the largest difference of F1 first."""
    return Table(
        caption=f"Classes: {first} and {other}",
        headings=("class", "rows", f"F1, {first}", f"F1, {other}", "difference", "McNemar p"),
        rows=[
            (
                shortened(each.label),
                count(each.rows),
                percent(each.f1_first),
                percent(each.f1_other),
                f"{100 * each.gain:+.1f}",
                significant(each.comparison.p_value),
            )
            for each in sorted(classes, key=lambda each: -abs(each.gain))
        ],
        look="names",
    )


def _points(comparison: Comparison, unit: str = "") -> str:
    low, high = 100 * comparison.interval.low, 100 * comparison.interval.high
    return f"{100 * comparison.difference:+.1f}{unit} ({low:+.1f} to {high:+.1f})"


def _row_list(rows: Sequence[Disagreement], right: str, number: int) -> RowList:
    finding = f"{count(number)} {'row' if number == 1 else 'rows'}"
    if number > len(rows):
        finding += f"; the {len(rows)} with the most confident wrong predictions are listed"
    shown = [
        ShownRow(
            label=shortened(each.label) or NONE,
            predicted=shortened(each.predicted) or NONE,
            place=f"probability {significant(each.probability)}, row {count(each.row)}",
            texts=each.texts,
        )
        for each in rows
    ]
    return RowList(
        title=f"Only {right} is right", finding=f"{finding}.", first=shown[:MAX_OPEN], rest=shown[MAX_OPEN:]
    )
