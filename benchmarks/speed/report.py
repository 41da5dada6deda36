"""One table in three forms: on the terminal, as Markdown, and as JSON with every single run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.results_folder import machine_name
from benchmarks.speed.arithmetic import LayerWeights, Sample, Spread, layer_flops_per_s, speedup
from benchmarks.speed.comparison import Comparison
from benchmarks.speed.pipelines import LEANTUNE

HEADER = ("", "samples/s", "tokens/s", "leantune is faster by", "of matrix rate", "peak memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One pipeline of one comparison; medians over the rounds."""

    pipeline: str
    samples_per_s: float
    tokens_per_s: float
    leantune_speedup: Spread | None
    """None for leantune itself."""
    share_of_limit: float | None
    """Of the matrix-product rate, what the layer products make up; None in int8, whose rate is another."""
    peak_rss_bytes: float


def lines_of(
    samples: Mapping[str, list[Sample]], task: str, weights: LayerWeights, matrix_flops: float
) -> list[Line]:
    """The lines of a comparison.

    Args:
        samples: by pipeline, one a round.
        task: training or prediction.
        weights: of the encoder.
        matrix_flops: operations a second of the fastest matrix product of the machine.
    """
    lines = []
    for name, each in samples.items():
        samples_per_s, tokens_per_s = (
            median(rates) for rates in zip(*((s.samples_per_s, s.tokens_per_s) for s in each), strict=True)
        )
        flops = layer_flops_per_s(
            weights,
            task,
            samples_per_s=samples_per_s,
            tokens_per_s=tokens_per_s,
            narrows=name.startswith(LEANTUNE),
        )
        lines.append(
            Line(
                pipeline=name,
                samples_per_s=samples_per_s,
                tokens_per_s=tokens_per_s,
                leantune_speedup=None if name == LEANTUNE else speedup(samples[LEANTUNE], each),
                share_of_limit=None if any(s.in_int8 for s in each) else flops / matrix_flops,
                peak_rss_bytes=median(s.peak_rss_bytes for s in each),
            )
        )
    return lines


def cells_of(line: Line) -> list[str]:
    """A line as text, under ``HEADER``."""
    ratio = line.leantune_speedup
    return [
        line.pipeline,
        _short(line.samples_per_s),
        f"{line.tokens_per_s:,.0f}",
        "" if ratio is None else f"{ratio.median:.1f}x ({ratio.low:.1f} to {ratio.high:.1f})",
        "" if line.share_of_limit is None else f"{100 * line.share_of_limit:.1f} %",
        _gigabytes(line.peak_rss_bytes),
    ]


def _short(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.2f} GB"


def title_of(comparison: Comparison) -> str:
    return (
        f"{comparison.model.name}, {comparison.task} "
        f"({comparison.num_rows:,} rows, median of {comparison.num_rounds})"
    )


def tables_of(result: Mapping[str, Any]) -> Iterable[tuple[str, tuple[str, ...], list[list[str]]]]:
    """Title, header and cells of every table of a result of `result_of`."""
    for each in result["comparisons"]:
        lines = [_line_from_json(line) for line in each["lines"]]
        yield each["title"], HEADER, [cells_of(line) for line in lines]


def _line_from_json(line: Mapping[str, Any]) -> Line:
    ratio = line["leantune_speedup"]
    return Line(**{**line, "leantune_speedup": Spread(**ratio) if ratio else None})


def rich_tables(result: Mapping[str, Any]) -> list[Table]:
    """For a terminal."""
    tables = []
    for title, header, rows in tables_of(result):
        table = Table(title=title, title_justify="left", title_style="bold", box=None)
        for name in header:
            table.add_column(name, justify="right" if name else "left")
        for cells in rows:
            table.add_row(*cells, style="bold" if cells[0] == LEANTUNE else None)
        tables.append(table)
    return tables


def markdown_of(result: Mapping[str, Any], plot: str) -> str:
    """For the repository.

    Args:
        result: from `result_of`.
        plot: file name of the picture beside it.
    """
    machine = result["machine"]
    hardware, rates = machine["hardware"], machine["matrix_flops"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    parts = [
        f"# Speed on {machine_name(hardware)}, {result['date']}",
        f"{hardware['cores']} threads, {_gigabytes(hardware['memory_bytes'])} of memory; matrix products "
        f"{rates['bf16'] / 1e12:.2f} TFLOP/s in bf16, {rates['fp32'] / 1e12:.2f} in fp32; {versions}.",
        f"Data: {result['data']}. {NOTES}",
        *(f"**Not valid:** {problem}" for problem in result["problems"]),
        *result["missing"],
        f"![samples per second]({plot})",
    ]
    for title, header, rows in tables_of(result):
        rule = ["---", *("---:" for _ in header[1:])]
        table = "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows])
        parts.append(f"## {title}\n\n{table}")
    parts.append(f"Made by `{result['command']}`; every run is in the JSON file of the same name.")
    return "\n\n".join(parts) + "\n"


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


def result_of(
    comparisons: list[Comparison],
    *,
    machine: Mapping[str, Any],
    data: str,
    date: str,
    command: str,
    problems: list[str],
    missing: list[str],
) -> dict[str, Any]:
    """Everything that is written, as plain JSON."""
    matrix_flops = max(machine["matrix_flops"].values())
    return {
        "date": date,
        "command": command,
        "machine": machine,
        "data": data,
        "problems": problems,
        "missing": missing,
        "comparisons": [
            {
                "title": title_of(each),
                "model": each.model.name,
                "task": each.task,
                "rows": each.num_rows,
                "rounds": each.num_rounds,
                "lines": [
                    dataclasses.asdict(line)
                    for line in lines_of(each.samples, each.task, each.model.weights, matrix_flops)
                ],
                "runs": {name: [_run(s) for s in samples] for name, samples in each.samples.items()},
            }
            for each in comparisons
        ],
    }


def _run(sample: Sample) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(sample).items() if value and key != "labels"}
