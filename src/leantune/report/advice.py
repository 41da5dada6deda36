"""Warnings about a run with advice on each, derived from its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from leantune.config.record.run import DataRecord, Measures, RowsRecord
from leantune.report import confidence, results
from leantune.report.run_folder import Run
from leantune.report.wording import NO_BREAK, count, percent, shortened, significant

FEW_ROWS = 300
"""Number of training rows below which more rows are advised. The default learning rate is lower there, too."""
WIDE = 0.1
"""Width of a confidence interval above which the rate is reported as uncertain."""
MANY_CUT = 0.05
FEW_OF_A_CLASS = 10
LOW_RECALL = 0.5
LEAST_SUPPORT = 5
"""Smallest number of rows of a class for which a low recall is reported."""
RISEN, RISEN_BY = 1.25, 0.02
"""Rise of the last log loss over the lowest one that counts as overfitting: a factor, and nats."""
MISCALIBRATED = 0.03
"""Smallest difference between mean confidence and accuracy that is reported."""
MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A possible problem of a run and its remedy."""

    finding: str
    advice: str
    section: str
    """Anchor of the page section with the details."""


def advice(run: Run) -> list[Advice]:
    """Return all advice about a run, the most important first."""
    data, final = run.record.data, results.final_metrics(run)
    found: list[Advice] = []
    if final:
        found += _of_the_measuring(run, *final)
        found += _of_the_model(run, *final)
    found += _overfitting(run)
    if data:
        found += _of_the_rows(data)
        found += _of_the_labels(data)
        found += _of_the_lengths(run, data.train)
    return found


def _of_the_measuring(run: Run, split: str, metrics: Measures) -> Iterator[Advice]:
    if split == "validation":
        yield Advice(
            finding="There is no test set.",
            advice="The checkpoint was selected on the validation rows. Pass test=FILE with rows used for no choice.",
            section="classes",
        )
    rate = results.headline(metrics)
    low, high = rate.interval
    if high - low > WIDE:
        yield Advice(
            finding=f"The {rate.name} is uncertain: its 95{NO_BREAK}% interval is {100 * (high - low):.0f} points "
            "wide.",
            advice=f"There are {count(metrics.num_rows)} {split} rows. More rows make the interval narrower.",
            section="classes",
        )
    rows = run.record.data.parts().get(split) if run.record.data else None
    leaked = (rows.rows_also_in_train or 0) if rows else 0
    if rows and leaked:
        yield Advice(
            finding=f"{count(leaked)} of {count(rows.rows)} {split} rows are also in the training data.",
            advice="Leaked rows make the metrics too optimistic. Remove them from one of the two files.",
            section="data",
        )


def _of_the_model(run: Run, split: str, metrics: Measures) -> Iterator[Advice]:
    as_good = "good" if results.has_several(metrics) else "accurate"
    for name, baseline in results.baselines_of(run.record, split):
        if results.headline(metrics).value <= results.headline(baseline).value:
            yield Advice(
                finding=f"The {name} is at least as {as_good}: {percent(results.headline(baseline).value)}.",
                advice="Fine-tuning gained nothing here. Try more epochs, effort=balanced, or a larger encoder.",
                section="curves",
            )
    measured = confidence.measured(run)
    difference = confidence.gap(*measured[1:]) if measured else 0.0
    way = "over" if difference > 0 else "under"
    if abs(difference) >= MISCALIBRATED:
        yield Advice(
            finding=f"The model is {way}confident by {100 * abs(difference):.0f} points.",
            advice="Do not use its probabilities as they are. Choose a threshold by accuracy at coverage.",
            section="confidence",
        )
    low = [
        one
        for one in metrics.per_class
        if one.recall is not None and one.recall < LOW_RECALL and one.support >= LEAST_SUPPORT
    ]
    if low:
        named = ", ".join(f"{shortened(one.label, 40)} ({percent(one.recall)})" for one in low[:MAX_NAMED])
        yield Advice(
            finding=f"{_classes(len(low), 'has', 'have')} a recall below {100 * LOW_RECALL:.0f}{NO_BREAK}%: "
            f"{named}{_more(len(low))}.",
            advice="Add training rows of these classes; if that is not possible, try class_weights=balanced.",
            section="classes",
        )


def _overfitting(run: Run) -> Iterator[Advice]:
    losses = [(one.step, one.validation.log_loss) for one in run.checkpoints if one.validation]
    if len(losses) < 2:
        return
    (best_step, best), (_, last) = min(losses, key=lambda each: each[1]), losses[-1]
    if last > best * RISEN and last > best + RISEN_BY:
        yield Advice(
            finding=f"The run overfits: validation log loss {significant(best)} at step {count(best_step)}, "
            f"{significant(last)} at the end.",
            advice="Lower epochs or learning_rate, set early_stop, or select the checkpoint with metric=log_loss.",
            section="checkpoints",
        )


def _of_the_rows(data: DataRecord) -> Iterator[Advice]:
    train = data.train
    if train.rows < FEW_ROWS:
        yield Advice(
            finding=f"There are only {count(train.rows)} training rows.",
            advice="More labelled rows help more than any setting. unlabelled=FILE adds texts without labels.",
            section="data",
        )


def _of_the_labels(data: DataRecord) -> Iterator[Advice]:
    conflicting = sum(rows.conflicting_rows or 0 for rows in data.parts().values())
    if conflicting:
        yield Advice(
            finding=f"{count(conflicting)} rows have the same text as a row with another label.",
            advice="At most one label per text can be learnt. Correct the labels.",
            section="equal",
        )
    rare = [name for name, number in data.train.label_counts.items() if number < FEW_OF_A_CLASS]
    if rare:
        named = ", ".join(shortened(name, 40) for name in rare[:MAX_NAMED])
        few = _classes(len(rare), "has", "have")
        yield Advice(
            finding=f"{few} fewer than {FEW_OF_A_CLASS} training rows: {named}{_more(len(rare))}.",
            advice="Add rows, or merge these classes with others.",
            section="data",
        )


def _of_the_lengths(run: Run, train: RowsRecord) -> Iterator[Advice]:
    cut, lengths = train.truncated_rows or 0, run.record.lengths
    if not train.rows or cut / train.rows < MANY_CUT:
        return
    wanted = lengths.percentile_95 if lengths else 0
    yield Advice(
        finding=f"{count(cut)} of {count(train.rows)} training texts ({percent(cut / train.rows)}) are truncated.",
        advice=f"max_length={wanted} would keep 95 % of the texts whole, if the encoder accepts that many tokens."
        if lengths and wanted > lengths.max_length
        else "Raise max_length if the end of a text matters.",
        section="lengths",
    )


def _classes(number: int, one: str, several: str) -> str:
    return f"1 class {one}" if number == 1 else f"{count(number)} classes {several}"


def _more(number: int) -> str:
    return f" and {number - MAX_NAMED} more" if number > MAX_NAMED else ""
