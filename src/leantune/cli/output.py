"""What a run and a plan look like in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.table import Table

from leantune.adalora.budget import ParameterPlan, Target
from leantune.adalora.method import METHODS
from leantune.config import Recipe
from leantune.config.record.run import BegunRecord, Measures, read_record, to_json
from leantune.evaluation.metrics import Metrics
from leantune.system.console import console
from leantune.system.messages import place_name
from leantune.training.before.planning import Plan
from leantune.training.warnings import rank_lines

LAYERS = {"all-linear": "all linear layers", "attention": "query and value"}
"""Values of ``targets`` as a sentence says them."""
MAX_CLASSES_SHOWN = 5
"""Classes that are printed for one text."""


def print_result(folder: Path) -> None:
    """The end of a training run, on standard output."""
    record = read_record(folder, BegunRecord)
    assert record.metrics is not None  # as are the others that the run wrote just now
    assert record.selected is not None
    assert record.ranks is not None
    terminal = console()
    table = Table(box=None, pad_edge=False)
    for name in ("", *_columns_of(has_several=record.labels.problem_type is not None), "rows"):
        table.add_column(name, justify="left" if name == "" else "right")
    for part in ("validation", "test"):
        baseline = getattr(record.baseline, part, None)
        for name, metrics in ((f"{part}, linear probe", baseline), (part, getattr(record.metrics, part))):
            if metrics:
                table.add_row(name, *_row_of(metrics))
    if table.row_count:
        terminal.print(table)
    parameters, timings, selected = record.parameters, record.timings, record.selected
    limit = f" (limit {parameters.budget:,})" if parameters.budget else ""
    lines = [
        f"trainable parameters: {parameters.initial:,} at the start{limit}, {parameters.final:,} at the end",
        f"ranks: {_rank_summary(record.ranks)}",
        f"training: {timings['train_s']:.0f} s, {timings['train_samples_per_s']:.0f} texts/s, "
        f"{timings['train_tokens_per_s']:,.0f} tokens/s; everything: {timings['total_s']:.0f} s",
        f"selected: step {selected.step}" + (f"; {selected.comparison}" if selected.comparison else ""),
        f"report:  {folder / 'report.html'}",
        f"adapter: {folder / 'adapter'}  (peft.PeftModel.from_pretrained)",
        f"merged:  {folder / 'merged'}  (transformers.pipeline)",
    ]
    for line in lines:
        terminal.print(line, soft_wrap=True)


def _columns_of(*, has_several: bool) -> list[str]:
    """Headings of `_row_of`, but for the rows."""
    if has_several:
        return ["micro F1", "95 % interval", "macro F1", "LRAP", "all labels right"]
    return ["accuracy", "95 % interval", "macro F1"]


def _row_of(metrics: Measures) -> list[str]:
    rates = [metrics.macro_f1]
    first, (low, high) = metrics.accuracy, metrics.accuracy_interval
    if metrics.micro_f1 is not None and metrics.micro_f1_interval is not None and metrics.lrap is not None:
        first, (low, high) = metrics.micro_f1, metrics.micro_f1_interval
        rates = [metrics.macro_f1, metrics.lrap, metrics.accuracy]
    return [
        f"{100 * first:.2f} %",
        f"{100 * low:.1f} to {100 * high:.1f}",
        *(f"{100 * rate:.2f} %" for rate in rates),
        f"{metrics.num_rows:,}",
    ]


def figure_of(value: float | None, metric: str = "accuracy") -> str:
    """The value of a metric, in percent but for the log loss; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if metric == "log_loss" else f"{100 * value:.2f} %"


def _rank_summary(ranks: Mapping[str, int]) -> str:
    values = sorted(ranks.values())
    if values[0] == values[-1]:
        return f"{values[0]} in each of {len(values)} modules"
    return (
        f"{values[0]} to {values[-1]} triplets a module, {sum(values)} in {len(values)} modules, "
        f"{values.count(0)} modules without any"
    )


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


def print_plan(planned: Plan, *, as_json: bool) -> None:
    """The ledger and the schedule of a recipe, on standard output."""
    if as_json:
        parts = {"parameters": planned.parameters, "schedule": planned.steps}
        print(json.dumps({name: to_json(each and each.to_record()) for name, each in parts.items()}))
        return
    terminal = console()
    terminal.print(_ledger(planned.parameters, planned.recipe, planned.num_labels))
    terminal.print(_schedule_text(planned), soft_wrap=True)
    for line in rank_lines(planned.parameters):
        terminal.print(line, soft_wrap=True)
    for name, count in planned.unseen.items():
        terminal.print(
            f"counted as if the weights, which are not here, had {name}: else its {count:,} parameters are trained",
            soft_wrap=True,
        )


def _ledger(plan: ParameterPlan, recipe: Recipe, num_labels: int) -> Table:
    """Layers that differ only in their number share a line; ``--json`` lists every module."""
    assert recipe.method is not None, "plan_run sets it"
    layers = LAYERS.get(str(recipe.targets), recipe.targets)
    table = Table(
        box=None,
        pad_edge=False,
        title=f"{recipe.model}, {num_labels} classes: {METHODS[recipe.method].title} in {layers}",
        title_justify="left",
    )
    table.add_column("modules", overflow="fold")
    for name in ("shape", "a rank", f"rank {plan.init_rank}", f"rank {plan.target_rank}"):
        table.add_column(name, justify="right", no_wrap=True)
    groups: dict[tuple[str, Target], int] = {}
    for target in plan.targets:
        name = re.sub(r"\.\d+\.", ".*.", target.name)
        key = name, replace(target, name="")
        groups[key] = groups.get(key, 0) + 1
    for (name, shape), count in groups.items():
        cost = count * shape.triplet_parameters
        table.add_row(
            f"{count} x {name}",
            f"{shape.in_features} x {shape.out_features}",
            f"{count} x {shape.triplet_parameters:,}",
            f"{plan.init_rank * cost:,}",
            f"{plan.target_rank * cost:,}",
        )
    table.add_section()
    table.add_row("adapters", "", f"{plan.per_rank:,}", f"{plan.adapters:,}", f"{plan.adapters_final:,}")
    table.add_row(f"head ({recipe.head})", "", "", f"{plan.head:,}", f"{plan.head:,}")
    table.add_row("trainable", "", "", f"{plan.initial:,}", f"{plan.final:,}", style="bold")
    table.add_row("total", "", "", f"{plan.total:,}", f"{plan.base + plan.adapters_final:,}")
    if plan.limit is not None:
        table.add_row("limit", "", "", f"{plan.limit:,}", "")
    return table


def _schedule_text(planned: Plan) -> str:
    recipe, plan, steps = planned.recipe, planned.parameters, planned.steps
    low, high = plan.adapters_final_range
    text = f"triplets: {plan.init_budget} at the start, {plan.target_budget} at the end"
    if low != high:
        text += f"; which ones survive decides the final count: {plan.head + low:,} to {plan.head + high:,}"
    if steps is None:
        return (
            f"{text}\nschedule: {recipe.epochs} epochs; ranks fall after {recipe.advanced.rank_warmup:g} and are final "
            f"{recipe.advanced.rank_final:g} before the end (a fraction of the steps, or steps); "
            f"the number of steps is not known: {planned.missing}"
        )
    text += (
        f"\nschedule: {steps.total_steps:,} steps ({steps.steps_per_epoch:,} an epoch); learning rate rises to "
        f"{recipe.learning_rate:g} for {steps.lr_warmup_steps:,}"
    )
    ranks = steps.ranks
    if not ranks.prunes:
        return f"{text}; ranks stay as they are"
    return (
        f"{text}; ranks fall from step {ranks.warmup_steps:,} to step {ranks.prune_step:,}, "
        f"every {ranks.allocate_every}, then {ranks.final_steps:,} steps with final ranks"
    )
