"""The study as a table and a picture: means over seeds with 95 % intervals, differences, budgets."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev, variance
from typing import Any

from scipy.stats import t as student

from benchmarks.harness import machine_and_day, machine_name, page, table
from benchmarks.quality.data import DataSet
from benchmarks.quality.methods import (
    BUDGETS,
    DEFAULT,
    EVERYWHERE,
    LORA_LINE,
    PEER_EVERYWHERE,
    PEERS,
    PROBE,
    RIVALS,
    TWO_THIRDS,
    Method,
)
from benchmarks.quality.runs import RUNS
from benchmarks.quality.study import PUBLISHED, Study

PLOT = "accuracy_by_budget.png"
"""Beside the page."""
SECONDS = "seconds.json"
"""What `benchmarks.quality.seconds` measured, beside the runs."""
Timed = dict[str, Any]
"""Its content."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds, in per cent."""

    mean: float
    half_width: float | None
    """Half of its 95 % interval (Student's t); None for a single seed."""
    num_seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From accuracies between 0 and 1, one a seed.

        >>> Estimate.of([0.90, 0.92])
        Estimate(mean=91.0, half_width=12.71, num_seeds=2)
        """
        count = len(values)
        half = None
        if count > 1:
            half = round(100 * float(student.ppf(0.975, count - 1)) * stdev(values) / math.sqrt(count), 2)
        return cls(round(100 * mean(values), 2), half, count)

    def __str__(self) -> str:
        width = "" if self.half_width is None else f" ± {self.half_width:.2f}"
        return f"{self.mean:.2f}{width} ({self.num_seeds})"


def accuracies(results: Sequence[dict[str, Any]], part: str = "test") -> list[float]:
    """One a seed; a run that diverged counts as nothing right."""
    return [result["metrics"][part]["accuracy"] if result["metrics"] else 0.0 for result in results]


def markdown_of(study: Study) -> str:
    """The whole report."""
    shown = _shown(study)
    machines = Counter(machine_name(result["hardware"]) for result in shown)
    versions = {
        ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "transformers", "peft"))
        for result in shown
    }
    cut = [data for data in study.sets if data.source.about is None]
    beside = [
        f"## {data.name}\n\n{data.source.about}\n\n{_results(replace(study, sets=[data]))}"
        for data in study.sets
        if data.source.about and any(study.finished(data, method, PUBLISHED) for method in study.methods)
    ]
    budgets = []
    if curves := budget_curves(study):
        budgets = ["## Other budgets", _budget_table(curves), f"![Accuracy by budget]({PLOT})"]
    return page(
        "When adaptive rank pays",
        "MiniLM-L6, 4,000 training rows, at most 128 tokens, 3 epochs. Test accuracy in per cent: "
        "mean over seeds, 95 % interval, number of seeds. Every method has the learning rate of its grid that has "
        "the lowest log loss on the validation rows of the set with the first seed; test rows choose nothing. The "
        "limit on trainable parameters is that of rank 11 on query and value with the whole head. leantune measures "
        "the checkpoint that its validation rows choose, transformers' `Trainer` the last one.",
        f"Runs on {' and '.join(f'{name} ({count})' for name, count in machines.most_common())}; "
        f"{'; '.join(sorted(versions))}. Intervals are over seeds of training on one cut of the rows: they say nothing "
        f"of other rows. Every run is a row of [{RUNS}]({RUNS}).",
        _about_seconds(study),
        _results(replace(study, sets=cut)),
        *beside,
        *budgets,
    )


def _shown(study: Study) -> list[dict[str, Any]]:
    """The results behind the tables."""
    return [
        result
        for method in study.methods
        for data in study.sets
        for result in study.finished(data, method, PUBLISHED)
    ]


def _results(study: Study) -> str:
    """Every method on the sets of the study, and the differences that matter."""
    timed = _timed(study)
    seconds = [f"training on {timed['data']}"] if timed else []
    names = [*(data.name for data in study.sets), "mean", "final parameters", *seconds, "learning rates"]
    lines = [_probe_line(study, timed)]
    lines += [line for method in study.methods if (line := _method_line(study, method, timed))]
    differences = [*_differences(study), *_paired_differences(study)]
    return "\n".join([table(["method", *names], lines), *([""] if differences else []), *differences])


def _probe_line(study: Study, timed: Timed | None) -> list[str]:
    measuring = [method for method in study.methods if method.name in (DEFAULT, TWO_THIRDS)]
    cells, means = [], []
    for data in study.sets:
        results = [result for method in measuring for result in study.finished(data, method, PUBLISHED)]
        baseline = results[0].get("baseline") if results else None
        if baseline:
            means.append(100 * baseline["test"]["accuracy"])
        cells.append(f"{means[-1]:.2f} (1)" if baseline else "")
    average = f"{mean(means):.2f}" if 0 < len(means) == len(study.sets) else ""
    return [PROBE, *cells, average, "the head", *([""] if timed else []), ""]


def _method_line(study: Study, method: Method, timed: Timed | None) -> list[str] | None:
    """One method; None before its first result."""
    found = [study.finished(data, method, PUBLISHED) for data in study.sets]
    estimates = [Estimate.of(accuracies(results)) if results else None for results in found]
    known = [100 * mean(accuracies(results)) for results in found if results]
    if not known:
        return None
    every = [result for results in found for result in results if result["metrics"]]
    final = sorted({result["parameters"]["final"] for result in every})
    seconds = timed["seconds"].get(method.name) if timed else None
    rates = [study.best_rate(data, method) for data in study.sets]
    return [
        method.name,
        *("" if estimate is None else str(estimate) for estimate in estimates),
        f"{mean(known):.2f}" if len(known) == len(study.sets) else "",
        " to ".join(f"{count:,}" for count in dict.fromkeys((final[0], final[-1]))) if final else "",
        *(["" if seconds is None else f"{seconds:.0f} s"] if timed else []),
        ", ".join("-" if rate is None else f"{rate:g}" for rate in rates),
    ]


def _timed(study: Study) -> Timed | None:
    """What `SECONDS` holds, if it is of a set of this table."""
    path = study.runs.folder / SECONDS
    found: Timed | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
    return found if found and found["data"] in [data.name for data in study.sets] else None


def _about_seconds(study: Study) -> str:
    timed = _timed(study)
    if not timed:
        return ""
    return (
        f"Seconds are those of training once more on {timed['data']}, leantune's starts included, one run at a time: "
        f"`{timed['command']}` on {machine_and_day(timed)}. transformers' `Trainer` takes rows in random order here, "
        "which is not its fastest."
    )


def _differences(study: Study) -> list[str]:
    """What the goal of the study asks: AdaLoRA against the best PEFT pipeline of every set and on average, against PEFT
    with our dropout, and against uniform rank; and LoRA of the whole limit, in the same and in all layers, against
    PEFT, too. Where AdaLoRA has not run, as it was.
    """
    by_name = {method.name: method for method in study.methods}
    found = {
        data.name: {
            name: values
            for name, method in by_name.items()
            if (values := accuracies(study.finished(data, method, PUBLISHED)))
        }
        for data in study.sets
    }
    lines: list[str] = []
    for data_name, values in found.items():
        own, peer = next((name for name in (DEFAULT, TWO_THIRDS) if name in values), None), _best_peer(values)
        if own is None:
            continue
        pairs = [(own, name) for name in (peer, *RIVALS) if name in values]
        pairs += [(EVERYWHERE, peer)] if EVERYWHERE in values and peer else []
        lines += [
            f"- {data_name}: {one} against {other}: {difference([(values[one], values[other])])}."
            for one, other in pairs
        ]
    if len(found) == 1:
        return lines
    for own in (DEFAULT, LORA_LINE, EVERYWHERE):
        pairs = [(v[own], v[_best_peer(v)]) for v in found.values() if own in v and all(map(v.get, PEERS))]
        lines += _mean_over_sets(f"{own} against the best PEFT pipeline of each", pairs, len(found))
    if any(peer not in values for values in found.values() for peer in PEERS):
        lines.append("- Mean over the sets: open until every PEFT pipeline has run on every set.")
    for name in RIVALS:
        pairs = [(v[DEFAULT], v[name]) for v in found.values() if DEFAULT in v and name in v]
        lines += _mean_over_sets(f"{DEFAULT} against {name}", pairs, len(found))
    return lines


def _mean_over_sets(title: str, pairs: Sequence[Any], num_sets: int) -> list[str]:
    """A line, if there is a pair of each set."""
    return [f"- Mean over the sets: {title}: {difference(pairs)}."] if len(pairs) == num_sets else []


def _best_peer(values: Mapping[str, Sequence[float]]) -> str:
    """The pipeline of PEFT with the highest mean; empty if none has run."""
    peers = (*PEERS, PEER_EVERYWHERE)
    return max((name for name in peers if name in values), key=lambda name: mean(values[name]), default="")


def _paired_differences(study: Study) -> list[str]:
    """Lines that are tuned as another against that one, seed by seed on all sets: chance that both share cancels."""
    lines = []
    for method in study.methods:
        if method.tuned_as is None:
            continue
        gains = []
        for data in study.sets:
            own, other = (_accuracy_by_seed(study, data, each) for each in (method, method.tuned_as))
            gains += [own[seed] - other[seed] for seed in own if seed in other]
        if len(gains) > 1:
            found = Estimate.of(gains)
            low, high = found.mean - found.half_width, found.mean + found.half_width
            lines.append(
                f"- {method.name} against {method.tuned_as.name}, seed by seed: {found.mean:+.2f} points "
                f"({low:+.2f} to {high:+.2f}) over {found.num_seeds} pairs of runs."
            )
    return lines


def _accuracy_by_seed(study: Study, data: DataSet, method: Method) -> dict[int, float]:
    jobs = study.runs_of(data, method, PUBLISHED)
    return {job.seed: accuracies([result])[0] for job in jobs if (result := study.result(job))}


def difference(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> str:
    """The mean over ``pairs`` of the first's mean less the second's, in points, with its 95 % interval over seeds
    (Welch's, with Satterthwaite's degrees of freedom over all of them) if each has several.
    """
    gain = 100 * mean(mean(own) - mean(others) for own, others in pairs)
    samples = [sample for pair in pairs for sample in pair]
    if min(map(len, samples)) < 2:
        return f"{gain:+.2f} points"
    variances = [variance(sample) / len(sample) for sample in samples]
    spread = sum(variances)
    half_width = 0.0
    if spread:
        weights = sum(v**2 / (len(sample) - 1) for v, sample in zip(variances, samples, strict=True))
        half_width = 100 * float(student.ppf(0.975, spread**2 / weights)) * math.sqrt(spread) / len(pairs)
    return f"{gain:+.2f} points ({gain - half_width:+.2f} to {gain + half_width:+.2f})"


Curves = dict[str, dict[str, dict[int, Estimate]]]
"""Accuracy by data set, method and limit on trainable parameters."""


def budget_curves(study: Study) -> Curves:
    """What has run of the methods that are for several budgets; sets and methods without a result are left out."""
    curves: Curves = {}
    for data in study.sets:
        for method in (each for each in study.methods if each.is_in_sweep):
            points = {
                limit: Estimate.of(accuracies(results))
                for budget, limit in BUDGETS.items()
                if limit is not None and (results := study.finished(data, method, budget))
            }
            if points:
                curves.setdefault(data.name, {})[method.name] = points
    return curves


def _budget_table(curves: Curves) -> str:
    limits = sorted({limit for methods in curves.values() for points in methods.values() for limit in points})
    lines = (
        [f"{data}, {method}", *(str(points.get(limit, "")) for limit in limits)]
        for data, methods in curves.items()
        for method, points in methods.items()
    )
    return table(["limit on trainable parameters", *(f"{limit:,}" for limit in limits)], lines)


def draw(curves: Curves, path: Path) -> None:
    """Accuracy against the limit on parameters, a panel a data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(curves), 3.6), layout="constrained")
    axes = figure.subplots(1, len(curves), squeeze=False, sharex=True)
    for axis, (data_name, methods) in zip(axes[0], curves.items(), strict=True):
        for method_name, points in methods.items():
            axis.errorbar(
                list(points),
                [estimate.mean for estimate in points.values()],
                yerr=[estimate.half_width or 0 for estimate in points.values()],
                marker="o",
                capsize=3,
                label=method_name,
            )
        axis.set(xscale="log", title=data_name, xlabel="limit on trainable parameters")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize="small")
    figure.savefig(path, dpi=140)
