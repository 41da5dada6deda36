"""What a run and a plan look like in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from leantune.adalora.budget import ParameterPlan, Target
from leantune.config import Recipe
from leantune.config.load import recipe_of_run
from leantune.config.record.run import BegunRecord, Rates, read_record, to_json
from leantune.evaluation.metrics import Metrics
from leantune.report.results import baselines_of, headline
from leantune.system.console import console
from leantune.system.messages import place_name
from leantune.training.before.placement import name_of
from leantune.training.before.planning import Plan
from leantune.training.warnings import rank_lines

MAX_CLASSES_SHOWN = 5
"""Classes that are printed for one text."""


def print_result(folder: Path) -> None:
    """The end of a training run, on standard output."""
    record = read_record(folder, BegunRecord)
    assert record.metrics is not None  # as are the others that the run wrote just now
    terminal = console()
    table = Table(box=None, pad_edge=False)
    for name in ("", *_columns_of(has_several=record.labels.problem_type is not None), "rows"):
        table.add_column(name, justify="left" if name == "" else "right")
    for part in ("validation", "test"):
        measured = [(f"{part}, {name}", rates) for name, rates in baselines_of(record, part)]
        for name, rates in (*measured, (part, getattr(record.metrics, part))):
            if rates:
                table.add_row(name, *_row_of(rates))
    if table.row_count:
        terminal.print(table)
    parameters, timings = record.parameters, record.timings
    recipe = recipe_of_run(folder, record.recipe)
    rank = max((each.initial_rank for each in parameters.modules), default=0)
    limit = f" (limit {parameters.budget:,})" if parameters.budget else ""
    final = parameters.final
    fewer = f", {final:,} after pruning" if final is not None and final < parameters.initial else ""
    lines = [
        *_verdict(record),
        f"trained: {name_of(recipe, rank)}; {parameters.initial:,} parameters{limit}{fewer}",
        f"seconds: {timings['total_s']:.0f}, of which training {timings['train_s']:.0f} "
        f"({timings['train_samples_per_s']:,.0f} texts/s)",
        f"report: {folder / 'report.html'}",
        f"files: {folder / 'adapter'} for PEFT, {folder / 'merged'} for transformers",
        "next:",
        f'  leantune predict {folder} "some text"',
        f"  leantune predict {folder} new.csv --output predictions.csv",
        f"  leantune serve {folder}",
    ]
    for line in lines:
        terminal.print(line, soft_wrap=True)


def _verdict(record: BegunRecord) -> Iterator[str]:
    """Say what fine-tuning gained on the rows that tell most: test rows if there are any."""
    for part in ("test", "validation"):
        tuned, baselines = getattr(record.metrics, part), dict(baselines_of(record, part))
        if tuned is None or not baselines:
            continue
        reached = headline(tuned).value
        probe, words = (each and baselines.get(each.name) for each in (record.baseline, record.word_baseline))
        if probe and reached > headline(probe).value:
            gain = 100 * (reached - headline(probe).value)
            yield f"fine-tuning gained {gain:.1f} points over the linear probe ({part} rows)"
        elif probe:
            yield (
                f"fine-tuning gained nothing here: the linear probe is at least as good ({part} rows). "
                "Try more rows, more epochs, effort=balanced or a larger encoder"
            )
        if words and reached <= headline(words).value:
            yield (
                f"a linear SVM on words is at least as good, without an encoder ({part} rows). "
                "Try a larger encoder, or a larger max_length if texts are cut"
            )
        return


def _columns_of(*, has_several: bool) -> list[str]:
    """Headings of `_row_of`, but for the rows."""
    if has_several:
        return ["micro F1", "95 % interval", "macro F1", "LRAP", "all labels right"]
    return ["accuracy", "95 % interval", "macro F1"]


def _row_of(metrics: Rates) -> list[str]:
    rates: list[float | None] = [metrics.macro_f1]
    first, (low, high) = metrics.accuracy, metrics.accuracy_interval
    if metrics.micro_f1 is not None and metrics.micro_f1_interval is not None:
        first, (low, high) = metrics.micro_f1, metrics.micro_f1_interval
        rates = [metrics.macro_f1, getattr(metrics, "lrap", None), metrics.accuracy]
    return [
        f"{100 * first:.2f} %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        *map(figure_of, rates),
        f"{metrics.num_rows:,}",
    ]


def figure_of(value: float | None, metric: str = "accuracy") -> str:
    """The value of a metric, in percent but for the log loss; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if metric == "log_loss" else f"{100 * value:.2f} %"


def print_metrics(metrics: Metrics) -> None:
    """An evaluation, on standard output."""
    terminal = console()
    terminal.print(metrics.summary(), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("class", "precision", "recall", "F1", "rows"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for each in metrics.per_class:
        rates = (each.precision, each.recall, each.f1)
        values = ["-" if rate is None else f"{100 * rate:.1f} %" for rate in rates]
        table.add_row(place_name(each.label), *values, f"{each.support:,}")
    terminal.print(table)


def print_probabilities(
    probabilities_C: npt.NDArray[np.float64],
    label_names: Sequence[str],
    thresholds_C: npt.NDArray[np.float64] | None,
) -> None:
    """The most probable classes of one text, on standard output; a mark for each that the text has, where it may have
    several: those are not below their thresholds.
    """
    table = Table(box=None, pad_edge=False, show_header=False)
    for class_id in np.argsort(-probabilities_C, kind="stable")[:MAX_CLASSES_SHOWN]:
        probability = probabilities_C[class_id]
        mark = [] if thresholds_C is None else ["yes" if probability >= thresholds_C[class_id] else "no"]
        table.add_row(place_name(label_names[class_id]), f"{100 * probability:.1f} %", *mark)
    table.columns[1].justify = "right"
    console().print(table)


def print_predictions(texts: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Texts with their labels and scores, on standard output.

    Args:
        texts: one text a row.
        rows: id, label or labels, and score of each row, as a prediction file has them; no score for a blank text.
    """
    terminal = console()
    labels = [
        ", ".join(map(place_name, [label] if isinstance(label, str) else label)) for _, label, _ in rows
    ]
    width = max(20, terminal.width - max(map(len, [*labels, "label"])) - len("  100.0 %  "))
    table = Table(box=None, pad_edge=False)
    for name in ("label", "score", "text"):
        table.add_column(name, justify="right" if name == "score" else "left", no_wrap=True)
    for text, label, (_, _, score) in zip(texts, labels, rows, strict=True):
        line = " ".join(text[: 2 * width].split())
        cut = line if len(line) <= width else f"{line[: width - 3]}..."
        table.add_row(label, "" if score is None else f"{100 * score:.1f} %", cut)
    terminal.print(table)


def print_plan(planned: Plan, *, as_json: bool) -> None:
    """The ledger and the schedule of a recipe, on standard output."""
    if as_json:
        parts = {"parameters": planned.parameters, "schedule": planned.steps}
        print(json.dumps({name: to_json(each and each.to_record()) for name, each in parts.items()}))
        return
    terminal = console()
    what = name_of(planned.recipe, planned.parameters.init_rank)
    terminal.print(f"{planned.recipe.model}, {planned.num_labels} classes: {what}", soft_wrap=True)
    terminal.print(_ledger(planned.parameters, planned.recipe))
    terminal.print(_schedule_text(planned), soft_wrap=True)
    if planned.larger is not None:
        limit, what = planned.larger
        terminal.print(f"the next size needs a limit of {limit:,}: {what}", soft_wrap=True)
    for line in rank_lines(planned.parameters):
        terminal.print(line, soft_wrap=True)
    for name, count in planned.unseen.items():
        terminal.print(
            f"counted as if the weights, which are not here, had {name}: else its {count:,} parameters are trained",
            soft_wrap=True,
        )


def _ledger(plan: ParameterPlan, recipe: Recipe) -> Table:
    """Return a table of trainable parameters; layers that differ only in their number share a line."""
    prunes = plan.target_rank < plan.init_rank
    table = Table(box=None, pad_edge=False)
    table.add_column("layers", overflow="fold")
    for name in ("shape", "parameters", "after pruning")[: 3 if prunes else 2]:
        table.add_column(name, justify="right", no_wrap=True)

    def add(name: str, shape: str, at_start: int, at_end: int, style: str | None = None) -> None:
        counts = [f"{at_start:,}", f"{at_end:,}"][: 2 if prunes else 1]
        table.add_row(name, shape, *counts, style=style)

    groups: dict[tuple[str, Target], int] = {}
    for target in plan.targets:
        key = re.sub(r"\.\d+\.", ".*.", target.name), replace(target, name="")
        groups[key] = groups.get(key, 0) + 1
    for (name, shape), count in groups.items():
        cost = count * shape.triplet_parameters
        sides = f"{shape.in_features} x {shape.out_features}"
        add(f"{count} x {name}", sides, plan.init_rank * cost, plan.target_rank * cost)
    table.add_section()
    if plan.targets:
        add("adapters", "", plan.adapters, plan.adapters_final)
    add(f"head ({recipe.head})", "", plan.head, plan.head)
    add("trainable", "", plan.initial, plan.final, style="bold")
    add("all", "", plan.total, plan.base + plan.adapters_final)
    if plan.limit is not None:
        table.add_row("limit", "", f"{plan.limit:,}")
    return table


def _schedule_text(planned: Plan) -> str:
    recipe, plan, steps = planned.recipe, planned.parameters, planned.steps
    low, high = plan.adapters_final_range
    text = ""
    if low != high:
        text = f"after pruning: {plan.head + low:,} to {plan.head + high:,} parameters, by the ranks pruned\n"
    if steps is None:
        return f"{text}training: {recipe.epochs} epochs; the number of steps is not known: {planned.missing}"
    text += (
        f"training: {steps.total_steps:,} steps of {recipe.batch_size} texts in {recipe.epochs} epochs, learning rate "
        f"{recipe.learning_rate:g}"
    )
    ranks = steps.ranks
    if not ranks.prunes:
        return text
    return f"{text}; ranks are pruned from step {ranks.warmup_steps:,} to step {ranks.prune_step:,}"
