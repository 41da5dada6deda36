"""Samples per second as bars, one panel a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.pipelines import LEANTUNE

OURS, THEIRS = "#c2410c", "#94a3b8"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a result of `benchmarks.speed.report.result_of`."""
    from matplotlib.figure import Figure

    comparisons = result["comparisons"]
    longest = max(len(each["lines"]) for each in comparisons)
    height = len(comparisons) * (0.8 + 0.3 * longest)
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    for axes, each in zip(figure.subplots(len(comparisons), squeeze=False)[:, 0], comparisons, strict=True):
        _draw_panel(axes, each)
    figure.savefig(path)


def _draw_panel(axes: Any, comparison: Mapping[str, Any]) -> None:
    lines = comparison["lines"][::-1]  # bars are drawn from the bottom
    values = [line["samples_per_s"] for line in lines]
    names = [line["pipeline"] for line in lines]
    bars = axes.barh(names, values, color=[OURS if name.startswith(LEANTUNE) else THEIRS for name in names])
    axes.bar_label(bars, [_label(line) for line in lines], padding=4, fontsize=8)
    axes.set_title(comparison["title"], loc="left", fontsize=10)
    axes.set_xlabel("samples/s", fontsize=8)
    axes.set_xlim(0, 1.35 * max(values))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _label(line: Mapping[str, Any]) -> str:
    ratio = line["leantune_speedup"]
    value = f"{line['samples_per_s']:,.1f}"
    return f"{value}   (leantune {ratio['median']:.1f}x)" if ratio else value
