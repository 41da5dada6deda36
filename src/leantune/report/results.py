"""What a run reached: metrics beside the probe, classes, confusions, and which checkpoint was selected.

A function gives None, or nothing, where the run has not written (yet) what its part is made of.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from leantune.config.record.run import (
    CheckpointRecord,
    Measures,
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
"""Characters of a class that head a column; longer ones stand upright."""


MAX_CLASSES_DRAWN = 60


MAX_CLASSES_WITH_NUMBERS = 20


def final_metrics(run: Run) -> tuple[str, Measures] | None:
    """The split that speaks for the run, and its metrics: test, else validation; None before both."""
    metrics = run.record.metrics
    if metrics and metrics.test:
        return "test", metrics.test
    return ("validation", metrics.validation) if metrics and metrics.validation else None


def baseline_on(run: Run, split: str) -> Measures | None:
    """The linear probe on the rows of a split."""
    measures: Measures | None = getattr(run.record.baseline, split, None)
    return measures


def validation_caveat(run: Run) -> str:
    """What the figures on validation rows are worth, where there are no test rows."""
    if run.record.refit:
        return (
            "Measured before the refit, on rows that chose the checkpoint and that the published model was then "
            "trained on, too: it was measured on no row that it has not seen."
        )
    return "The checkpoint was chosen on these rows, so the figures are optimistic: there was no test set."


@dataclass(frozen=True, slots=True)
class Headline:
    """The rate that speaks for an evaluation: accuracy, or micro F1 where a text may have several labels."""

    name: str
    value: float
    interval: tuple[float, float]


def headline(metrics: Measures) -> Headline:
    """The rate that speaks for an evaluation."""
    if metrics.micro_f1 is not None and metrics.micro_f1_interval is not None:
        return Headline("micro F1", metrics.micro_f1, metrics.micro_f1_interval)
    return Headline("accuracy", metrics.accuracy, metrics.accuracy_interval)


def accuracy_chart(run: Run, split: str, metrics: Measures) -> IntervalChart | None:
    """Accuracy, or micro F1, beside the baseline's."""
    name = headline(metrics).name
    estimates = [_estimate("leantune", metrics, is_main=True)]
    if (probe := baseline_on(run, split)) and run.record.baseline:
        estimates.append(_estimate(run.record.baseline.name, probe))
    return interval_chart(
        estimates,
        title=f"{split.capitalize()} {name}",
        x_label=f"{split} {name}, % (line: 95 % interval)",
    )


def checkpoint_chart(run: Run) -> IntervalChart | None:
    """Validation accuracy, or micro F1, by checkpoint."""
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
    """Validation metrics by checkpoint."""
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
    """Checkpoints that validation rows measured."""
    return [(one, one.validation) for one in run.checkpoints if one.validation]


def candidates(run: Run) -> Table | None:
    """The short runs that chose method, targets and learning rate; None where there were none."""
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
    """What became of the rows without labels, and by class; None where there were none."""
    found = run.record.pseudo_labels
    if found is None:
        return None
    finding = (
        f"Of {count(found.rows)} rows without labels {count(found.taken)} were trained on, too: those to whose most "
        f"probable class a first run on the labelled rows gave a probability of {significant(found.least_probability)} "
        "or more. What it gave is in pseudo_labels.csv."
    )
    if found.rows_also_labelled:
        finding += f" {count(found.rows_also_labelled)} that are labelled, too, were left out."
    if found.rows_also_in_test:
        finding += (
            f" {count(found.rows_also_in_test)} are test rows: their labels were not read, but their texts were there "
            "to be trained on, so the test figures hold for such texts."
        )
    table = Table(
        caption="Rows by the label that the first run gave",
        headings=["class", "rows"],
        rows=[[shortened(name), count(number)] for name, number in found.label_counts.items()],
    )
    return finding, table


def selection_finding(run: Run) -> str:
    """What the choice of the checkpoint is worth, and why it was this one where the chart alone does not say."""
    selected = run.record.selected
    if not selected or not selected.comparison:
        return ""
    found = [selected.comparison]
    if selected.rule == "one-se" and selected.metric != "log_loss":
        metric = selected.metric.replace("_f1", " F1").replace("lrap", "LRAP")
        found.append(f"of those within one standard error of the best {metric}, the last was selected")
    return " ".join(text[:1].upper() + text[1:].removesuffix(".") + "." for text in found)


def classes(split: str, metrics: Measures) -> Table:
    """Rates of each class."""
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
    """Rows by true and predicted class; None where there are too many classes to draw, or several labels a row."""
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
        # The root keeps rare confusions visible beside a full diagonal.
        lambda i, number: sqrt(number / max(1, metrics.per_class[i].support)),
        caption=f"Confusion matrix, {split} rows: true class by row, predicted class by column",
        corner="true \N{DOWNWARDS ARROW} predicted \N{RIGHTWARDS ARROW}",
        is_compact=len(labels) > MAX_CLASSES_WITH_NUMBERS,
        look="names tall" if max(map(len, labels)) > MAX_LABEL_ACROSS else "names",
    )


def confusions(split: str, metrics: Measures) -> Table:
    """The most frequent ones."""
    errors = [(number, i, j) for i, j, number in metrics.confusion or () if i != j]
    most = sorted(errors, key=lambda error: (-error[0], error[1:]))[:MAX_CONFUSIONS_LISTED]
    of = metrics.per_class
    return Table(
        caption=f"Most frequent confusions, {split} rows",
        headings=["true class", "predicted as", "rows", "of the true class"],
        rows=[
            [shortened(of[i].label), shortened(of[j].label), count(number), percent(number / of[i].support)]
            for number, i, j in most
        ],
        numeric_from=2,
        look="names",
    )


def has_several(metrics: Measures) -> bool:
    """Whether a row may have several labels."""
    return metrics.micro_f1 is not None


def _estimate(label: str, metrics: Measures, *, is_main: bool = False) -> Estimate:
    rate = headline(metrics)
    low, high = rate.interval
    return Estimate(label=label, value=rate.value, low=low, high=high, is_main=is_main)


def _is_selected(checkpoint: CheckpointRecord, selected: SelectedRecord | None) -> bool:
    return selected is not None and checkpoint.step == selected.step
