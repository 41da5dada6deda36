"""One table in three forms: as Markdown, as a picture, and as JSON with every single run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness import Result, machine_name, measured_by, page, percent, table
from benchmarks.speed.arithmetic import LayerWeights, Sample, layer_flops_per_s, speedup
from benchmarks.speed.comparison import Comparison
from benchmarks.speed.pipelines import LEANTUNE

OURS, THEIRS = "#c2410c", "#94a3b8"
HEADER = ("", "samples/s", "tokens/s", "leantune is faster by", "of matrix rate", "peak memory")


Line = dict[str, Any]
"""One pipeline of one comparison; medians over the rounds."""


def lines_of(
    samples: Mapping[str, list[Sample]], task: str, weights: LayerWeights, matrix_flops: float
) -> list[Line]:
    """The lines of a comparison.

    ``share_of_limit`` is what the layer products make up of the matrix-product rate; None in int8, which has another.

    Args:
        samples: by pipeline, one a round.
        task: training or prediction.
        weights: of the encoder.
        matrix_flops: operations a second of the fastest matrix product of the machine.
    """
    lines = []
    for name, each in samples.items():
        rates = {key: median(getattr(s, key) for s in each) for key in ("samples_per_s", "tokens_per_s")}
        flops = layer_flops_per_s(weights, task, **rates, narrows=name.startswith(LEANTUNE))
        lines.append(
            {
                "pipeline": name,
                **rates,
                "leantune_speedup": None if name == LEANTUNE else asdict(speedup(samples[LEANTUNE], each)),
                "share_of_limit": None if any(s.in_int8 for s in each) else flops / matrix_flops,
                "peak_rss_bytes": median(s.peak_rss_bytes for s in each),
            }
        )
    return lines


def cells_of(line: Line) -> list[str]:
    """A line as text, under ``HEADER``."""
    ratio, share = line["leantune_speedup"], line["share_of_limit"]
    return [
        line["pipeline"],
        _short(line["samples_per_s"]),
        f"{line['tokens_per_s']:,.0f}",
        f"{ratio['median']:.1f}x ({ratio['low']:.1f} to {ratio['high']:.1f})" if ratio else "",
        "" if share is None else percent(share),
        _gigabytes(line["peak_rss_bytes"]),
    ]


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


def markdown_of(result: Result, picture: str) -> str:
    """For the repository.

    Args:
        result: with the `measurements_of` its comparisons.
        picture: file name of what `draw` makes, beside it.
    """
    hardware, rates = result["hardware"], result["matrix_flops"]
    return page(
        f"Speed on {machine_name(hardware)}, {result['date']}",
        f"{measured_by(result, *result['versions'])}. {_gigabytes(hardware['memory_bytes'])} of memory; matrix "
        f"products {rates['bf16'] / 1e12:.2f} TFLOP/s in bf16, {rates['fp32'] / 1e12:.2f} in fp32. Every run is in "
        "the JSON file of the same name.",
        f"Data: {result['data']}. {NOTES}",
        *(f"**Not valid:** {problem}" for problem in result["problems"]),
        *result["missing"],
        f"![samples per second]({picture})",
        *(
            f"## {each['title']}\n\n{table(HEADER, map(cells_of, each['lines']), right=range(1, len(HEADER)))}"
            for each in result["comparisons"]
        ),
    )


NOTES = (
    "*usual*: transformers `Trainer` + PEFT AdaLoRA with dynamic padding; for prediction a plain fp32 loop in "
    "input order. *best setting*: the same with batches of like length; for prediction bf16, sorted by length. "
    "*few shapes*: lengths padded to multiples of 16 besides, which spares compiled kernels. *eager "
    "attention*: in place of PyTorch's fused one, which is not always the faster one on a CPU. All train in "
    "the machine's best precision unless they say fp32; leantune multiplies with frozen weights in int8 while "
    "it trains, unless it says *bf16 products*, and predicts in bf16, unless it says *int8*. The pipelines ran "
    "alternately, each in a fresh process; ratios are taken within a round, with the least and the greatest in "
    "brackets. Tokens are real tokens, without padding. *Of matrix rate*: the layer products of the real "
    "tokens over the fastest measured matrix product, not of those in int8, whose rate is another; leantune's "
    "are counted without those that it leaves out, of all but first tokens behind the last attention. Peak "
    "memory is that of the whole process. *OpenVINO*: the same run, exported before the clock starts, int8 "
    "calibrated with training rows. The loss of MiniLM must fall in every run; RoBERTa-base has random weights "
    "here, which a few steps teach nothing."
)


def measurements_of(comparisons: list[Comparison], rates: Mapping[str, float]) -> dict[str, Any]:
    """All lines and runs as plain JSON; ``rates`` are operations a second of matrix products."""
    fastest = max(rates.values())
    return {
        "matrix_flops": dict(rates),
        "comparisons": [
            {
                "title": f"{each.model.name}, {each.task} ({each.num_rows:,} rows, median of {each.num_rounds})",
                "model": each.model.name,
                "task": each.task,
                "rows": each.num_rows,
                "rounds": each.num_rounds,
                "lines": lines_of(each.samples, each.task, each.model.weights, fastest),
                "runs": {name: [_run(s) for s in samples] for name, samples in each.samples.items()},
            }
            for each in comparisons
        ],
    }


def _run(sample: Sample) -> dict[str, Any]:
    return {key: value for key, value in asdict(sample).items() if value and key != "labels"}


def draw(result: Result, path: Path) -> None:
    """Samples a second as bars, one panel a comparison, as a PNG."""
    from matplotlib.figure import Figure

    comparisons = result["comparisons"]
    longest = max(len(each["lines"]) for each in comparisons)
    height = len(comparisons) * (0.8 + 0.3 * longest)
    figure = Figure(figsize=(8, height), dpi=150, layout="constrained")
    for axes, each in zip(figure.subplots(len(comparisons), squeeze=False)[:, 0], comparisons, strict=True):
        _draw_panel(axes, each)
    figure.savefig(path)


def _draw_panel(axes: Any, comparison: Result) -> None:
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


def _label(line: Line) -> str:
    ratio = line["leantune_speedup"]
    value = f"{line['samples_per_s']:,.1f}"
    return f"{value}   (leantune {ratio['median']:.1f}x)" if ratio else value
