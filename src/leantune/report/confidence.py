"""Tables and charts of the model's confidence: reliability diagram and accuracy at coverage."""

from __future__ import annotations

from leantune.config.record.confidence import ConfidenceRecord
from leantune.config.record.run import Measures
from leantune.report import results
from leantune.report.charts import LineChart, Series, line_chart
from leantune.report.rows import confidence_of
from leantune.report.run_folder import Run
from leantune.report.tables import Table
from leantune.report.wording import count, percent, percent_range, significant

FEW = 10
"""Number of rows below which a bin is drawn as a ring, because its accuracy is unreliable."""
USUAL_COVERAGE = 0.8


def measured(run: Run) -> tuple[str, Measures, ConfidenceRecord] | None:
    """Return the reported split, its metrics and its confidence, or None if they were not recorded."""
    final = results.final_metrics(run)
    found = confidence_of(run, final[0]) if final else None
    return (*final, found) if final and found else None


def gap(metrics: Measures, confidence: ConfidenceRecord) -> float:
    """Return mean confidence minus accuracy, or 0 if the confidence lies within the accuracy's interval."""
    low, high = metrics.accuracy_interval
    is_explained = low <= confidence.mean_confidence <= high
    return 0.0 if is_explained else confidence.mean_confidence - metrics.accuracy


def finding(split: str, metrics: Measures, confidence: ConfidenceRecord) -> str:
    """Describe in a sentence whether confidence and accuracy agree."""
    difference = gap(metrics, confidence)
    verdict = (
        "the difference is within chance"
        if difference == 0
        else f"the model is {'over' if difference > 0 else 'under'}confident"
    )
    return (
        f"The mean confidence of the {split} predictions is {percent(confidence.mean_confidence)}, and "
        f"{percent(metrics.accuracy)} ({percent_range(metrics.accuracy_interval)}) are correct: {verdict}."
    )


def coverage_finding(confidence: ConfidenceRecord) -> str:
    """Describe in words what a confidence threshold gains; empty if no threshold is useful."""
    total = max((point.rows for point in confidence.coverage), default=0)
    wanted = [point for point in confidence.coverage if point.rows >= USUAL_COVERAGE * total]
    if not wanted or wanted[0].rows == total:
        return ""
    first = wanted[0]
    return (
        f"For the {percent(first.rows / total)} of rows with a confidence of at least "
        f"{significant(first.least_confidence)}, {percent(first.accuracy)} of the predictions are correct. The other "
        "rows can be left to a person."
    )


def reliability_chart(split: str, confidence: ConfidenceRecord) -> LineChart | None:
    """Return a chart of accuracy by mean confidence of each bin, with the diagonal."""
    full = [(100 * (c or 0), 100 * (a or 0)) for rows, c, a in _filled(confidence) if rows >= FEW]
    sparse = [(100 * (c or 0), 100 * (a or 0)) for rows, c, a in _filled(confidence) if rows < FEW]
    if not full and not sparse:
        return None
    return line_chart(
        [
            Series(name="ideal", points=[(0, 0), (100, 100)], look="dashed"),
            Series(name=f"< {FEW} rows", points=sparse, look="rings"),
            Series(name=f"≥ {FEW} rows", points=full, look="dots"),
        ],
        title=f"Reliability on {split} rows",
        y_label="accuracy, %",
        x_label="mean confidence of a bin, %",
    )


def reliability(split: str, confidence: ConfidenceRecord) -> Table:
    """Return a table of confidence and accuracy by bin."""
    width = 100 / max(1, len(confidence.bins))
    return Table(
        caption=f"Confidence and accuracy, {split} rows",
        headings=["confidence, %", "rows", "mean confidence", "accuracy"],
        rows=[
            [
                f"{significant(i * width)} to {significant((i + 1) * width)}",
                count(one.rows),
                percent(one.mean_confidence),
                percent(one.accuracy),
            ]
            for i, one in enumerate(confidence.bins)
            if one.rows
        ],
    )


def coverage_chart(split: str, confidence: ConfidenceRecord) -> LineChart | None:
    """Return a chart of the accuracy of the most confident rows by their share of all rows."""
    total = max((point.rows for point in confidence.coverage), default=0)
    points = [(100 * point.rows / total, 100 * point.accuracy) for point in confidence.coverage if total]
    return line_chart(
        [Series(name="accuracy", points=points)],
        title=f"Accuracy at coverage, {split} rows",
        y_label="accuracy, %",
        x_label="most confident rows, % of all",
        y_low=min((accuracy for _, accuracy in points), default=0.0),
    )


def coverage(split: str, confidence: ConfidenceRecord) -> Table:
    """Return a table of the accuracy of the most confident rows."""
    total = max([1, *(point.rows for point in confidence.coverage)])
    return Table(
        caption=f"Accuracy of the most confident {split} rows",
        headings=["rows", "coverage", "least confidence", "accuracy"],
        rows=[
            [
                count(point.rows),
                percent(point.rows / total),
                significant(point.least_confidence),
                percent(point.accuracy),
            ]
            for point in confidence.coverage
        ],
        numeric_from=0,
    )


def _filled(confidence: ConfidenceRecord) -> list[tuple[int, float | None, float | None]]:
    return [(one.rows, one.mean_confidence, one.accuracy) for one in confidence.bins if one.rows]
