"""The parts of the page that say how good the classifier is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt

from leantune.report.charts import Estimate, interval_chart, stacked_bar
from leantune.report.heat import heat_table
from leantune.report.markup import Html, disclosure, section, table, tag
from leantune.report.run_folder import Json, Run, final_or
from leantune.report.wording import (
    count,
    duration,
    percent,
    percent_range,
    rate_with_interval,
    shortened,
    significant,
)

MAX_CLASSES_WITH_NUMBERS = 20
MAX_CLASSES_DRAWN = 60
MAX_LABEL_ACROSS = 8
"""Characters of a class that head a column; longer ones stand upright."""
MAX_CONFUSIONS_LISTED = 12


def final_metrics(run: Run) -> tuple[str, Json] | None:
    """The split that speaks for the run, and its metrics: test, else validation; None before both."""
    metrics = run.part("metrics")
    return next(((split, metrics[split]) for split in ("test", "validation") if metrics.get(split)), None)


def validation_caveat(run: Run) -> str:
    """What the figures on validation rows are worth, where there are no test rows."""
    if run.record.get("refit"):
        return (
            "Measured before the refit, on rows that chose the checkpoint and that the published model was then "
            "trained on, too: it was measured on no row that it has not seen."
        )
    return "The checkpoint was chosen on these rows, so the figures are optimistic: there was no test set."


def headline(run: Run) -> Html:
    """Accuracy beside the baseline's, parameters under the budget, time."""
    cards = [_accuracy_card(run), _parameter_card(run.part("parameters")), _time_card(run.part("timings"))]
    return tag("section", *cards, class_="cards", aria_label="Result in short") if any(cards) else Html("")


def checkpoint_section(run: Run) -> Html:
    """Validation metrics by checkpoint, and whether they can be told apart."""
    checkpoints = [one for one in run.checkpoints() if one.get("validation")]
    selected = run.part("selected")
    chart = interval_chart(
        [_checkpoint_estimate(one, selected) for one in checkpoints],
        title="Validation accuracy by checkpoint",
        x_label="validation accuracy, % (line: 95 % interval)",
    )
    if chart is None:
        return Html("")
    figures = table(
        ["step", "epoch", "accuracy", "95 % interval", "macro F1", "log loss", "calibration error", "state"],
        [_checkpoint_row(one, selected) for one in checkpoints],
        caption="Validation metrics by checkpoint",
    )
    found = [selected["comparison"], *_reason(selected)] if selected.get("comparison") else []
    sentence = tag("p", " ".join(_as_sentence(one) for one in found), class_="finding") if found else None
    return section("checkpoints", "Checkpoints", sentence, tag("figure", chart), figures)


def _reason(selected: Json) -> Iterator[str]:
    """Why it was this one, where the chart alone does not say."""
    if selected.get("rule") == "one-se" and selected["metric"] != "log_loss":
        metric = selected["metric"].replace("macro_f1", "macro F1")
        yield f"of those within one standard error of the best {metric}, the last was selected"


def class_section(run: Run) -> Html:
    """Per-class metrics and the confusion matrix of the final metrics."""
    final = final_metrics(run)
    if final is None:
        return Html("")
    split, metrics = final
    per_class = table(
        ["class", "precision", "recall", "F1", "rows"],
        [_class_row(one) for one in metrics["per_class"]],
        caption=f"Metrics by class, {split} rows",
        class_="names",
    )
    note = (
        f"{split.capitalize()} rows: macro F1 {rate_with_interval(metrics, 'macro_f1')}, log loss "
        f"{significant(metrics['log_loss'])}, calibration error {percent(metrics['calibration_error'])}."
    )
    beside = tag("div", per_class, _confusion(split, metrics), class_="beside")
    return section("classes", "Classes", tag("p", note), beside)


def _class_row(one: Json) -> list[object]:
    rates = [percent(one[rate]) for rate in ("precision", "recall", "f1")]
    return [shortened(one["label"]), *rates, count(one["support"])]


def _accuracy_card(run: Run) -> Html | None:
    final = final_metrics(run)
    if final is None:
        return None
    split, metrics = final
    baseline = run.part("baseline")
    estimates = [_estimate("leantune", metrics, is_main=True)]
    if baseline.get(split):
        estimates.append(_estimate(baseline["name"], baseline[split]))
    chart = interval_chart(
        estimates,
        title=f"{split.capitalize()} accuracy",
        x_label=f"{split} accuracy, % (line: 95 % interval)",
    )
    return tag(
        "div",
        tag("h2", f"{split.capitalize()} accuracy"),
        tag("p", percent(metrics["accuracy"]), class_="big"),
        tag(
            "p",
            f"95 % interval {percent_range(metrics['accuracy_interval'])}, {count(metrics['num_rows'])} rows",
        ),
        chart,
        tag("p", validation_caveat(run), class_="note") if split == "validation" else None,
        class_="card wide",
    )


def _parameter_card(parameters: Json) -> Html | None:
    if not parameters:
        return None
    initial, budget = parameters["initial"], parameters.get("budget")
    final = final_or(parameters, "final", initial)
    detail = f"{count(initial)} at the start"
    if budget:
        detail = f"of a budget of {count(budget)}; {detail}"
    when = "so far" if parameters.get("final") is None else "at the end"
    title = f"{count(final)} trainable parameters {when}, {count(initial)} at the start"
    freed = initial - final
    bar = stacked_bar([("main", final), ("freed", freed)], total=max(budget or 0, initial, 1), title=title)
    return tag(
        "div",
        tag("h2", "Trainable parameters"),
        tag("p", count(final), class_="big"),
        tag("p", detail),
        bar,
        tag("p", f"{percent(final / parameters['total'])} of all {count(parameters['total'])}", class_="note")
        if parameters.get("total")
        else None,
        class_="card",
    )


def _time_card(timings: Json) -> Html | None:
    if not timings:
        return None
    tokens, texts = timings.get("train_tokens_per_s"), timings.get("train_samples_per_s")
    return tag(
        "div",
        tag("h2", "Training time"),
        tag("p", duration(timings.get("train_s")), class_="big"),
        tag("p", f"{count(tokens)} tokens/s, {count(texts)} texts/s"),
        tag("p", f"{duration(timings.get('total_s'))} from start to end", class_="note"),
        class_="card",
    )


def _estimate(label: str, metrics: Json, *, is_main: bool = False) -> Estimate:
    low, high = metrics["accuracy_interval"]
    return Estimate(label=label, value=metrics["accuracy"], low=low, high=high, is_main=is_main)


def _checkpoint_estimate(checkpoint: Json, selected: Json) -> Estimate:
    label = f"step {count(checkpoint['step'])}, epoch {significant(checkpoint['epoch'])}"
    return _estimate(label, checkpoint["validation"], is_main=checkpoint["step"] == selected.get("step"))


def _checkpoint_row(checkpoint: Json, selected: Json) -> list[object]:
    metrics = checkpoint["validation"]
    is_selected = checkpoint["step"] == selected.get("step")
    return [
        count(checkpoint["step"]),
        significant(checkpoint["epoch"]),
        percent(metrics["accuracy"]),
        percent_range(metrics["accuracy_interval"]),
        percent(metrics["macro_f1"]),
        significant(metrics["log_loss"]),
        percent(metrics["calibration_error"]),
        "selected" if is_selected else "kept" if checkpoint.get("kept") else "",
    ]


def _confusion(split: str, metrics: Json) -> Html:
    labels = [shortened(one["label"]) for one in metrics["per_class"]]
    supports = [one["support"] for one in metrics["per_class"]]
    cells: list[tuple[int, int, int]] = metrics["confusion"]
    caption = f"Confusion matrix, {split} rows: true class by row, predicted class by column"
    listed = table(
        ["true class", "predicted as", "rows", "of the true class"],
        _confusions(labels, supports, cells),
        caption=f"Most frequent confusions, {split} rows",
        numeric_from=2,
        class_="names",
    )
    if len(labels) > MAX_CLASSES_DRAWN:
        return listed

    counts = [[0] * len(labels) for _ in labels]
    for i, j, number in cells:
        counts[i][j] = number

    def heat_of(i: int, j: int) -> float:
        # The root keeps rare confusions visible beside a full diagonal.
        return sqrt(counts[i][j] / max(1, supports[i]))

    matrix = heat_table(
        labels,
        labels,
        counts,
        heat_of,
        caption=caption,
        corner="true \N{DOWNWARDS ARROW} predicted \N{RIGHTWARDS ARROW}",
        is_compact=len(labels) > MAX_CLASSES_WITH_NUMBERS,
        class_="names tall" if max(map(len, labels)) > MAX_LABEL_ACROSS else "names",
    )
    return tag("div", matrix, disclosure("Most frequent confusions", listed))


def _confusions(
    labels: Sequence[str], supports: Sequence[int], cells: Sequence[tuple[int, int, int]]
) -> Iterator[list[object]]:
    errors = [(number, i, j) for i, j, number in cells if i != j]
    for number, i, j in sorted(errors, key=lambda error: (-error[0], error[1:]))[:MAX_CONFUSIONS_LISTED]:
        yield [labels[i], labels[j], count(number), percent(number / supports[i])]


def _as_sentence(text: str) -> str:
    return text[:1].upper() + text[1:].removesuffix(".") + "."
