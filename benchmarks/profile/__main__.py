"""Where a training step goes: ``python -m benchmarks.profile``.

Trains the benchmark's encoders on rows of AG News (else Reuters R8) with leantune's own kernels, with these and
products in bf16, and with torch's, in fresh processes in turn, and prints the seconds of a step, how near that is to
the machine's limit, and the dearest operators of native and torch's kernels. Writes JSON and Markdown into
``benchmarks/results/``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from statistics import median
from typing import Any

from benchmarks.harness import Benchmark, Result, measured_by, page, table, turns
from benchmarks.overhead.measure import BATCH_SIZE, rows_needed
from benchmarks.processes import Workplace
from benchmarks.speed.arithmetic import LayerWeights, layer_flops_per_s
from benchmarks.speed.matrix_rates import matrix_rates, the_higher
from benchmarks.speed.setting import setting

BENCHMARK = Benchmark("profile", __doc__)
KINDS = {
    "native": ("native kernels, products in int8", "1", ()),
    "bf16": ("native kernels, products in bf16", "1", ("precision=bf16",)),
    "torch": ("torch's kernels", "0", ()),
}
"""A kind of process: its name, the value of ``LEANTUNE_NATIVE``, and keys of the recipe."""
KERNELS = ("native", "torch")
"""Kinds whose operators are shown."""
SHOWN_OPERATORS = 14

Processes = Sequence[Mapping[str, Any]]
"""What `benchmarks.profile.measure` printed in each."""


def main() -> int:
    parser = BENCHMARK.parser()
    parser.add_argument("--steps", type=int, default=30, help="measured steps, with and without profiler")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each kind, alternating")
    parser.add_argument("--only", default="MiniLM", help="models to run, by a part of their names")
    options = parser.parse_args()
    result: dict[str, Any] = {**BENCHMARK.origin(), **{"rounds": options.rounds, "models": {}, "weights": {}}}
    with setting(options.only) as found:
        rates = matrix_rates(found.place)
        rows = found.many_rows(rows_needed(options.steps) + BATCH_SIZE)
        for model in found.models:
            found.place.say(
                f"{model.name}: {options.rounds} times {options.steps} steps of each on {found.data}"
            )
            words = [str(model.folder), str(rows), str(options.steps)]
            result["models"][model.name] = in_turn(found.place, words, options.rounds)
            result["weights"][model.name] = asdict(model.weights)
            rates = the_higher(rates, matrix_rates(found.place))
    result["matrix_flops"] = rates["bf16"]
    BENCHMARK.publish(options.results, result, markdown_of(result))
    return 0


def in_turn(place: Workplace, words: list[str], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What `benchmarks.profile.measure` found in ``rounds`` processes of each kind."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _, kind in turns(tuple(KINDS), rounds):
        _, switch, settings = KINDS[kind]
        there = replace(place, environment={**place.environment, "LEANTUNE_NATIVE": switch})
        command = [sys.executable, "-m", "benchmarks.profile.measure", *words, *settings]
        found[kind].append(json.loads(there.output_of(command)))
    return found


def markdown_of(result: Result) -> str:
    """One table of steps, and one of operators a model."""
    models, in_bf16, operators = result["models"], [], []
    for name, found in models.items():
        if "bf16" in found:
            bf16, native = (_median(found[kind], "step_s") for kind in ("bf16", "native"))
            in_bf16.append(
                f"{name} with native kernels and products in bf16 (`precision=bf16`): {1e3 * bf16:.1f} ms, "
                f"{bf16 / native:.2f} times as long as by default."
            )
        columns = [_dearest(found[kind]) for kind in KERNELS]
        lines = [(*a, *b) for a, b in zip_longest(*columns, fillvalue=("", ""))]
        operators.append(
            f"## {name}: operators by themselves, ms a step, with the profiler\n\n"
            + table(["native kernels", "", "torch's kernels", ""], lines)
        )
    return page(
        f"Where a training step goes, {result['date']}",
        f"{measured_by(result, 'torch', 'transformers')}. AdaLoRA of rank 11 on query and value, batches of "
        f"{BATCH_SIZE}; medians of {result['rounds']} processes, in turn.",
        table(
            ["", "tokens", "native kernels", "torch's kernels", "faster by"],
            (_in_short(name, found) for name, found in models.items()),
        ),
        *in_bf16,
        "The limit: all products of all layers for all tokens, forward and backward, at "
        f"{result['matrix_flops'] / 1e12:.2f} TFLOP/s, the fastest product in bf16 that was measured, and nothing "
        "else. *Of it, computed*: without the products that are left out, of all but first tokens behind the last "
        "attention. In int8 the processor multiplies faster than the rate that both are counted by.",
        table(
            ["", "", "ms a step", "texts/s", "tokens/s", "limit, texts/s", "reached", "of it, computed"],
            (
                [name, KINDS[kind][0], *_of_the_limit(each, result["weights"][name], result["matrix_flops"])]
                for name, found in models.items()
                for kind, each in found.items()
            ),
        ),
        *operators,
    )


def _median(processes: Processes, key: str) -> float:
    return median(each[key] for each in processes)


def _in_short(name: str, found: Mapping[str, Processes]) -> list[str]:
    native, torch_ = (_median(found[kind], "step_s") for kind in KERNELS)
    tokens = f"{_median(found['torch'], 'tokens'):,.0f}"
    return [name, tokens, f"{1e3 * native:.1f} ms", f"{1e3 * torch_:.1f} ms", f"{torch_ / native:.2f}x"]


def _of_the_limit(processes: Processes, weights: Mapping[str, int], rate: float) -> list[str]:
    """Steps as texts a second, and as a share of what the matrix-product rate allows."""
    seconds, tokens = _median(processes, "step_s"), _median(processes, "tokens")
    rates = {"samples_per_s": BATCH_SIZE / seconds, "tokens_per_s": tokens / seconds}
    whole, computed = (
        layer_flops_per_s(LayerWeights(**weights), "training", **rates, narrows=narrows)
        for narrows in (False, True)
    )
    return [
        f"{1e3 * seconds:.1f}",
        *(f"{each:,.0f}" for each in (*rates.values(), rates["samples_per_s"] * rate / whole)),
        *(f"{each / rate:.0%}" for each in (whole, computed)),
    ]


def _dearest(processes: Processes) -> list[tuple[str, str]]:
    """The operators that take most, the rest in one line."""
    names = {name for each in processes for name in each["operators_s"]}
    seconds = {name: median(each["operators_s"].get(name, 0.0) for each in processes) for name in names}
    order = sorted(seconds, key=lambda name: -seconds[name])
    rest = sum(seconds[name] for name in order[SHOWN_OPERATORS:])
    shown = [(f"`{name}`", f"{1e3 * seconds[name]:.1f}") for name in order[:SHOWN_OPERATORS]]
    return [*shown, ("everything else", f"{1e3 * rest:.1f}")]


if __name__ == "__main__":
    sys.exit(main())
