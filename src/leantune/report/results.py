"""Tables and charts of a run's results: metrics and baseline, classes, confusions and checkpoints.

Functions return None or an empty result if the run has not written the data they need.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from leantune.config.record.run import (
    CheckpointRecord,
    Measures,
    Rates,
    RunRecord,
    SelectedRecord,
)
from leantune.report.charts import (
    Estimate,
    IntervalChart,
    interval_chart,
)
from leantune.report.run_folder import Run
from leantune.report.tables import HeatTable, Table, heat_table
from leantune.report.wording import (
    count,
    percent,
    percent_range,
    shortened,
    significant,
)

MAX_CONFUSIONS_LISTED = 12


MAX_LABEL_ACROSS = 8
"""Length of a class name, in characters, above which column headings are written vertically."""


MAX_CLASSES_DRAWN = 60


MAX_CLASSES_WITH_NUMBERS = 20


def final_metrics(run: Run) -> tuple[str, Measures] | None:
    """Return the reported split and its metrics: test, else validation; None if neither was measured."""
    metrics = run.record.metrics
    if metrics and metrics.test:
        return "test", metrics.test
    return ("validation", metrics.validation) if metrics and metrics.validation else None


def baselines_of(record: RunRecord, split: str) -> list[tuple[str, Rates]]:
    """Return name and rates of each baseline that was measured on a split."""
    found = ((each.name, getattr(each, split)) for each in (record.baseline, record.word_baseline) if each)
    return [(name, rates) for name, rates in found if rates]


def validation_caveat(run: Run) -> str:
    """Explain how far metrics on validation rows can be trusted without a test set."""
    if run.record.refit:
        return (
            "Measured before the refit, on the rows that selected the checkpoint. The published model was then trained "
            "on these rows, too, and was not measured on unseen rows."
        )
    return "The checkpoint was selected on these rows, so the metrics are optimistic: there was no test set."


@dataclass(frozen=True, slots=True)
class Headline:
    """The main metric of an evaluation: accuracy, or micro F1 if a text may have several labels."""

    name: str
    value: float
    interval: tuple[float, float]


def headline(metrics: Rates) -> Headline:
    """Return the main metric of an evaluation."""
    if metrics.micro_f1 is not None and metrics.micro_f1_interval is not None:
        return Headline("micro F1", metrics.micro_f1, metrics.micro_f1_interval)
    return Headline("accuracy", metrics.accuracy, metrics.accuracy_interval)


def accuracy_chart(run: Run, split: str, metrics: Measures) -> IntervalChart | None:
    """Return a chart of the main metric of the model and of the baselines."""
    name = headline(metrics).name
    estimates = [_estimate("leantune", metrics, is_main=True)]
    estimates += [_estimate(name, rates) for name, rates in baselines_of(run.record, split)]
    return interval_chart(
        estimates,
        title=f"{split.capitalize()} {name}",
        x_label=f"{split} {name}, % (line: 95 % interval)",
    )


def checkpoint_chart(run: Run) -> IntervalChart | None:
    """Return a chart of the main validation metric by checkpoint."""
    selected = run.record.selected
    name = next((headline(metrics).name for _, metrics in _evaluated(run)), "accuracy")
    return interval_chart(
        [
            _estimate(
                f"step {count(one.step)}, epoch {significant(one.epoch)}",
                metrics,
                is_main=_is_selected(one, selected),
            )
            for one, metrics in _evaluated(run)
        ],
        title=f"Validation {name} by checkpoint",
        x_label=f"validation {name}, % (line: 95 % interval)",
    )


def checkpoints(run: Run) -> Table:
    """Return a table of validation metrics by checkpoint."""
    selected = run.record.selected

    def row(one: CheckpointRecord, metrics: Measures) -> list[str]:
        return [
            count(one.step),
            significant(one.epoch),
            percent(headline(metrics).value),
            percent_range(headline(metrics).interval),
            percent(metrics.macro_f1),
            significant(metrics.log_loss),
            percent(metrics.calibration_error),
            "selected" if _is_selected(one, selected) else "kept" if one.kept else "",
        ]

    name = next((headline(metrics).name for _, metrics in _evaluated(run)), "accuracy")
    return Table(
        caption="Validation metrics by checkpoint",
        headings=[
            "step",
            "epoch",
            name,
            "95 % interval",
            "macro F1",
            "log loss",
            "calibration error",
            "state",
        ],
        rows=[row(one, metrics) for one, metrics in _evaluated(run)],
    )


def _evaluated(run: Run) -> list[tuple[CheckpointRecord, Measures]]:
    """Return the checkpoints with validation metrics."""
    return [(one, one.validation) for one in run.checkpoints if one.validation]


def candidates(run: Run) -> Table | None:
    """Return a table of the short runs that selected method, targets and learning rate, or None without such runs."""
    recipe = run.record.recipe or {}
    if not run.record.race:
        return None
    return Table(
        caption="Short runs on the same rows, measured on the validation rows",
        headings=["targets", "method", "learning rate", "steps", "accuracy", "log loss", "seconds", "state"],
        rows=[
            [
                each.targets,
                each.method,
                significant(each.learning_rate),
                count(each.steps),
                percent(each.accuracy),
                significant(each.log_loss),
                count(each.seconds),
                "chosen"
                if all(
                    recipe.get(key) == getattr(each, key) for key in ("targets", "method", "learning_rate")
                )
                else "",
            ]
            for each in run.record.race
        ],
        numeric_from=2,
    )


def pseudo_labels(run: Run) -> tuple[str, Table] | None:
    """Describe how rows without labels were used, with a table by class; None if there were no such rows."""
    found = run.record.pseudo_labels
    if found is None:
        return None
    finding = (
        f"The run was also trained on {count(found.taken)} of {count(found.rows)} rows without labels. A first run on "
        f"the labelled rows predicted their class with a probability of {significant(found.least_probability)} or "
        "more. Its predictions are in pseudo_labels.csv."
    )
    if found.rows_also_labelled:
        finding += (
            f" {count(found.rows_also_labelled)} rows that are also in the labelled data were left out."
        )
    if found.rows_also_in_test:
        finding += (
            f" {count(found.rows_also_in_test)} of the rows are also test rows. Their labels were not read, but the "
            "model may have been trained on their texts, so the test metrics hold for texts seen in this way."
        )
    table = Table(
        caption="Rows by predicted label of the first run",
        headings=["class", "rows"],
        rows=[[shortened(name), count(number)] for name, number in found.label_counts.items()],
    )
    return finding, table


def selection_finding(run: Run) -> str:
    """Explain in words why this checkpoint was selected; empty if the chart shows it."""
    selected = run.record.selected
    if not selected or not selected.comparison:
        return ""
    found = [selected.comparison]
    if selected.rule == "one-se" and selected.metric != "log_loss":
        metric = selected.metric.replace("_f1", " F1").replace("lrap", "LRAP")
        found.append(f"the last checkpoint within one standard error of the best {metric} was selected")
    return " ".join(text[:1].upper() + text[1:].removesuffix(".") + "." for text in found)


def classes(split: str, metrics: Measures) -> Table:
    """Return a table of precision, recall and F1 by class."""
    return Table(
        caption=f"Metrics by class, {split} rows",
        headings=["class", "precision", "recall", "F1", "rows"],
        rows=[
            [
                shortened(one.label),
                percent(one.precision),
                percent(one.recall),
                percent(one.f1),
                count(one.support),
            ]
            for one in metrics.per_class
        ],
        look="names",
    )


def confusion_matrix(split: str, metrics: Measures) -> HeatTable | None:
    """Return the confusion matrix, or None if there are too many classes or a row may have several labels."""
    labels = [shortened(one.label) for one in metrics.per_class]
    if len(labels) > MAX_CLASSES_DRAWN or has_several(metrics):
        return None
    counts: list[list[int | None]] = [[0] * len(labels) for _ in labels]
    for i, j, number in metrics.confusion or ():
        counts[i][j] = number
    return heat_table(
        labels,
        labels,
        counts,
        # The square root keeps rare confusions visible beside a full diagonal.
        lambda i, number: sqrt(number / max(1, metrics.per_class[i].support)),
        caption=f"Confusion matrix, {split} rows: true class by row, predicted class by column",
        corner="true \N{DOWNWARDS ARROW} predicted \N{RIGHTWARDS ARROW}",
        is_compact=len(labels) > MAX_CLASSES_WITH_NUMBERS,
        look="names tall" if max(map(len, labels)) > MAX_LABEL_ACROSS else "names",
    )


def confusions(split: str, metrics: Measures) -> Table:
    """Return a table of the most frequent confusions."""
    errors = [(number, i, j) for i, j, number in metrics.confusion or () if i != j]
    most = sorted(errors, key=lambda error: (-error[0], error[1:]))[:MAX_CONFUSIONS_LISTED]
    of = metrics.per_class
    return Table(
        caption=f"Most frequent confusions, {split} rows",
        headings=["true class", "predicted as", "rows", "share of true class"],
        rows=[
            [shortened(of[i].label), shortened(of[j].label), count(number), percent(number / of[i].support)]
            for number, i, j in most
        ],
        numeric_from=2,
        look="names",
    )


def has_several(metrics: Rates) -> bool:
    """Whether a row may have several labels."""
    return metrics.micro_f1 is not None


def _estimate(label: str, metrics: Rates, *, is_main: bool = False) -> Estimate:
    rate = headline(metrics)
    low, high = rate.interval
    return Estimate(label=label, value=rate.value, low=low, high=high, is_main=is_main)


def _is_selected(checkpoint: CheckpointRecord, selected: SelectedRecord | None) -> bool:
    return selected is not None and checkpoint.step == selected.step
